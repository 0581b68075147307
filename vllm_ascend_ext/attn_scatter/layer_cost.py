# SPDX-License-Identifier: Apache-2.0
"""Takes a decoder layer's cost apart: what each part that scattering changes sends, moves and computes on a rank.

Bytes sent are those of the ring algorithm, as `collectives` counts them. T = rows, R = ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vllm_ascend_ext.attn_scatter.fp8_wire import wire_bytes
from vllm_ascend_ext.attn_scatter.row_layouts import RowSplit
from vllm_ascend_ext.collectives import sent_bytes
from vllm_ascend_ext.machines.rates import Rates

# Vector instructions for an element of a norm: counted in our AscendC kernel, 90.4 us for 4096 rows of 7168 on 48
# cores of 64 lanes at 1.85 GHz (docs/performance.md, operators).
NORM_OPERATIONS = 17.5
_WEIGHT_BYTES = {"bf16": 2, "int8": 1, "fp8": 1}
CODING_OPERATIONS = 8.0  # likewise of coding or decoding FP8: magnitude, scale, product, conversions; assumed


class Way(str, Enum):
    """Names the ways of running a layer: vLLM's own, scattered to attention, and scattered all along."""

    PLAIN = "plain"
    SCATTERED = "scattered"
    FULL = "full"


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

    @property
    def row_bytes(self) -> int:
        return self.hidden * self.element_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Describes one part of a layer on one rank.

    Attributes:
        name: what it is; parts of the same name in different ways do the same work.
        collective: the operation that sends, "" for work on the rank alone.
        sent: bytes that the rank sends.
        moved: bytes read and written in the rank's memory.
        operations: float32 operations outside the matrix unit.
        flops: of matrix products.
        weights: elements of the matrix that rows are multiplied by, which is read however few they are.
    """

    name: str
    collective: str = ""
    sent: int = 0
    moved: int = 0
    operations: float = 0.0
    flops: int = 0
    weights: int = 0

    def seconds(self, rates: Rates, num_ranks: int, weights: str = "bf16") -> float:
        """Returns the part's time, without what a collective takes however small.

        Raises:
            ValueError: matrix products with weights that the machine has no unit for.
        """
        if self.collective:
            return self.sent / rates.send_rate(self.collective, num_ranks)
        if self.flops:
            rate = rates.matrix(weights)
            if rate is None:
                raise ValueError(f"{rates.name} multiplies no {weights} matrices")
            return max(self.flops / rate, self.weights * _WEIGHT_BYTES[weights] / rates.memory)
        return max(self.moved / rates.memory, self.operations / rates.vector)


def parts(
    layer: LayerSizes,
    num_rows: int,
    num_ranks: int,
    way: Way,
    *,
    fp8_wire: bool = False,
    uneven: bool = False,
    rank: int = 0,
) -> tuple[Part, ...]:
    """Returns what a rank does in one layer, of what differs between the ways, in order.

    The exchange of a layer's output, where the layer owes a sum, is counted here, though the next layer does it.

    Args:
        layer: sizes of the layer.
        num_rows: T.
        num_ranks: R.
        way: way of running the layer.
        fp8_wire: the gather before the experts carries FP8, which `FULL` can do.
        uneven: shards hold their own rows only, so that ranks send unequally many bytes; those of `rank` count.
        rank: the rank, which matters with uneven shards only.
    """
    split = RowSplit.even(num_rows, num_ranks, is_padded=not uneven)
    if way is Way.PLAIN:
        return tuple(_plain(layer, num_rows, RowSplit.even(num_rows, num_ranks)))
    return tuple(_scattered(layer, split, rank, way is Way.FULL, fp8_wire))


def _plain(layer: LayerSizes, num_rows: int, split: RowSplit) -> Iterator[Part]:
    whole = num_rows * layer.row_bytes
    yield _norm("input norm", layer, num_rows)
    yield from _projection(layer, num_rows)
    yield Part("attention output", "all_reduce", sent_bytes.all_reduce(whole, split.num_ranks))
    yield _norm("post-attention norm", layer, num_rows)
    if layer.mlp_on_shards:
        yield gather("MLP output", split, 0, layer.row_bytes)
    else:
        yield Part("MLP output", "all_reduce", sent_bytes.all_reduce(whole, split.num_ranks))


def _scattered(layer: LayerSizes, split: RowSplit, rank: int, full: bool, fp8_wire: bool) -> Iterator[Part]:
    held, num_rows = split.held(rank), split.num_rows
    yield _norm("input norm", layer, held)
    yield from _projection(layer, held)
    yield gather("attention input", split, rank, layer.gathered * layer.element_bytes)
    if layer.mlp_on_shards:
        yield reduce_scatter("attention output", split, rank, layer.row_bytes)
        yield _norm("post-attention norm", layer, held)
        return
    if not full:
        whole = num_rows * layer.row_bytes
        yield Part("attention output", "all_reduce", sent_bytes.all_reduce(whole, split.num_ranks))
        yield _norm("post-attention norm", layer, num_rows)
        yield reduce_scatter("MLP output", split, rank, layer.row_bytes)
        return
    yield reduce_scatter("attention output", split, rank, layer.row_bytes)
    yield _norm("post-attention norm", layer, held)
    if fp8_wire:
        yield _coding("FP8 coding", layer, held)
    yield gather("MLP input", split, rank, wire_bytes(layer.hidden) if fp8_wire else layer.row_bytes)
    if fp8_wire:
        yield _coding("FP8 decoding", layer, num_rows)
    if layer.logits_bytes:
        yield gather("router logits", split, rank, layer.logits_bytes)
    yield reduce_scatter("MLP output", split, rank, layer.row_bytes)


def gather(name: str, split: RowSplit, rank: int, row_bytes: int) -> Part:
    """Returns the gather of every rank's rows of `row_bytes`, of which this rank sends its own to all others."""
    op = "all_gather" if split.has_equal_shards else "all_gather_variable"
    return Part(name, op, sent_bytes.all_gather(split.held(rank) * row_bytes, split.num_ranks))


def reduce_scatter(name: str, split: RowSplit, rank: int, row_bytes: int) -> Part:
    """Returns the reduce-scatter of rows of `row_bytes`, of which this rank sends the other ranks' shards."""
    op = "reduce_scatter" if split.has_equal_shards else "reduce_scatter_variable"
    return Part(
        name, op, sent_bytes.reduce_scatter_variable(split.num_held * row_bytes, split.held(rank) * row_bytes)
    )


def _norm(name: str, layer: LayerSizes, num_rows: int) -> Part:
    """Returns a norm with its residual: rows and residual are read, and both are written."""
    elements = num_rows * layer.hidden
    return Part(name, moved=4 * elements * layer.element_bytes, operations=NORM_OPERATIONS * elements)


def _projection(layer: LayerSizes, num_rows: int) -> Iterator[Part]:
    """Yields the projection that every rank repeats, where there is one."""
    if layer.gathered < layer.hidden:
        weights = layer.hidden * layer.gathered
        yield Part("projection", flops=2 * num_rows * weights, weights=weights)


def _coding(name: str, layer: LayerSizes, num_rows: int) -> Part:
    elements = num_rows * layer.hidden
    moved = num_rows * (layer.row_bytes + wire_bytes(layer.hidden))
    return Part(name, moved=moved, operations=CODING_OPERATIONS * elements)
