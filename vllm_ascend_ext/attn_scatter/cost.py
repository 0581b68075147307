# SPDX-License-Identifier: Apache-2.0
"""Predicts bytes and time of scattered attention input by pure functions of sizes that all ranks know.

Bytes are those that a rank sends by the ring algorithm, as `collectives` counts them. T = rows, R = ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_ascend_ext.attn_scatter.fp8_wire import wire_bytes
from vllm_ascend_ext.attn_scatter.row_layouts import RowSplit
from vllm_ascend_ext.collectives import sent_bytes


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Holds the sizes of a decoder layer, in elements of a row.

    hidden: H. gathered: W, what attention gathers: q_lora + kv_lora + rope columns, or H where the gather comes
    before the projection. logits_bytes: of a row of router logits, 0 without a router. mlp_on_shards:
    sequence-parallel experts.
    """

    hidden: int
    gathered: int
    element_bytes: int
    logits_bytes: int = 0
    mlp_on_shards: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """Holds the speeds of one rank. flops, memory and link are per second, the last two in bytes; collective_s:
    how long one more collective takes, however small."""

    name: str
    flops: float
    memory: float
    link: float
    collective_s: float


# CUDA: fitted to the profile of SGLang #10568 on an H20. CPU: the order of magnitude of benchmarks/attn_scatter.py
# on two cores.
RATES = {
    "cuda": Rates("H20", flops=1.48e14, memory=2.8e12, link=2.8e11, collective_s=3e-5),
    "cpu": Rates("CPU", flops=3e10, memory=8e9, link=1e9, collective_s=3e-4),
}


def _all_reduce(num_rows: int, row_bytes: int, num_ranks: int) -> int:
    return sent_bytes.all_reduce(num_rows * row_bytes, num_ranks)


def _gather(split: RowSplit, rank: int, row_bytes: int) -> int:
    return sent_bytes.all_gather(split.held(rank) * row_bytes, split.num_ranks)


def _reduce_scatter(split: RowSplit, rank: int, row_bytes: int) -> int:
    """Returns the bytes that each rank sends in a reduce-scatter: the other ranks' shards, equal or not."""
    return sent_bytes.reduce_scatter_variable(split.num_held * row_bytes, split.held(rank) * row_bytes)


def plain_layer(layer: LayerSizes, num_rows: int, num_ranks: int) -> int:
    """Returns the bytes of a layer as vLLM runs it: two all-reduces, or with sequence-parallel experts one and a
    gather."""
    row_bytes = layer.hidden * layer.element_bytes
    sent = _all_reduce(num_rows, row_bytes, num_ranks)
    if layer.mlp_on_shards:
        return sent + _gather(RowSplit.even(num_rows, num_ranks), 0, row_bytes)
    return 2 * sent


def scattered_layer(
    layer: LayerSizes,
    num_rows: int,
    num_ranks: int,
    *,
    full: bool = False,
    fp8_wire: bool = False,
    uneven: bool = False,
    rank: int = 0,
) -> int:
    """Returns the bytes of a layer with scattered attention input. The reduce-scatter of its output, where the
    layer owes a sum, is counted here, though the next layer does it. With uneven shards the bytes are those that
    `rank` sends; otherwise all ranks send as many."""
    split = RowSplit.even(num_rows, num_ranks, is_padded=not uneven)
    row_bytes = layer.hidden * layer.element_bytes
    sent = _gather(split, rank, layer.gathered * layer.element_bytes)
    sent += _reduce_scatter(split, rank, row_bytes)
    if layer.mlp_on_shards:
        return sent
    if not full:
        return sent + _all_reduce(num_rows, row_bytes, num_ranks)
    wire = wire_bytes(layer.hidden) if fp8_wire else row_bytes
    sent += _reduce_scatter(split, rank, row_bytes) + _gather(split, rank, wire)
    return sent + _gather(split, rank, layer.logits_bytes)


def scattered_forward(
    layers: Sequence[LayerSizes],
    num_rows: int,
    num_ranks: int,
    *,
    entry_owes_sum: bool,
    full: bool = False,
    fp8_wire: bool = False,
    uneven: bool = False,
    rank: int = 0,
) -> int:
    """Returns the bytes of a forward pass: `layers`, the embedding's reduce-scatter if it owes a sum, and the last
    gather."""
    split = RowSplit.even(num_rows, num_ranks, is_padded=not uneven)
    row_bytes = layers[-1].hidden * layers[-1].element_bytes
    ends = _gather(split, rank, row_bytes) + entry_owes_sum * _reduce_scatter(split, rank, row_bytes)
    return ends + sum(
        scattered_layer(layer, num_rows, num_ranks, full=full, fp8_wire=fp8_wire, uneven=uneven, rank=rank)
        for layer in layers
    )


def min_tokens(
    layers: Sequence[LayerSizes], num_ranks: int, rates: Rates, *, full: bool = False, fp8_wire: bool = False
) -> int | None:
    """Returns the number of rows from which on the scattered layers take less time than the plain ones, or None
    when they never do.

    Gained with each row are bytes on the link, and for (R - 1) / R of the rows the norms (read twice and written
    twice) and the projection to `gathered`; paid once are the collectives that are more.
    """
    rows = 1024 * num_ranks  # bytes are linear in multiples of R
    row_s, paid_s = 0.0, 0.0
    for layer in layers:
        sent = scattered_layer(layer, rows, num_ranks, full=full, fp8_wire=fp8_wire)
        row_s += (plain_layer(layer, rows, num_ranks) - sent) / rows / rates.link
        num_norms = 2 if full or layer.mlp_on_shards else 1
        work_s = num_norms * 4 * layer.hidden * layer.element_bytes / rates.memory
        if layer.gathered < layer.hidden:
            work_s += 2 * layer.hidden * layer.gathered / rates.flops
        row_s += (num_ranks - 1) / num_ranks * work_s
        if not layer.mlp_on_shards:
            paid_s += rates.collective_s * (2 + (layer.logits_bytes > 0) if full else 1)
    return max(num_ranks, math.ceil(paid_s / row_s)) if row_s > 0 else None
