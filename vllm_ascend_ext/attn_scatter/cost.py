# SPDX-License-Identifier: Apache-2.0
"""Predicts bytes and time of scattered attention input by pure functions of sizes that all ranks know.

Everything here is a sum over the parts of layers (`layer_cost.parts`). T = rows, R = ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes, Part, Way, gather, parts, reduce_scatter
from vllm_ascend_ext.attn_scatter.row_layouts import RowSplit
from vllm_ascend_ext.machines.known import A3, H20
from vllm_ascend_ext.machines.rates import Rates

RATES: Mapping[str, Rates] = {
    "cuda": H20.rates,
    "npu": A3.rates,
    # the order of magnitude of benchmarks/attn_scatter.py on two cores
    "cpu": Rates("CPU", flops=3e10, memory=8e9, link=1e9, collective_s=3e-4),
}
"""Speeds by which thresholds are decided, by the type of the device."""
_MOST_ROWS = 1 << 24  # of a rank, beyond any step


@dataclass(frozen=True, slots=True)
class PartTime:
    """Holds what the parts of one name take in a forward pass: seconds, and how many of them are collectives."""

    seconds: float
    num_calls: int


def plain_layer(layer: LayerSizes, num_rows: int, num_ranks: int) -> int:
    """Returns the bytes of a layer as vLLM runs it: two all-reduces, or with sequence-parallel experts one and a
    gather."""
    return _sent(parts(layer, num_rows, num_ranks, Way.PLAIN))


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
    way = Way.FULL if full else Way.SCATTERED
    return _sent(parts(layer, num_rows, num_ranks, way, fp8_wire=fp8_wire, uneven=uneven, rank=rank))


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
    ends = [gather("last norm", split, rank, layers[-1].row_bytes)]
    if entry_owes_sum:
        ends.append(reduce_scatter("embedding", split, rank, layers[-1].row_bytes))
    return _sent(ends) + sum(
        scattered_layer(layer, num_rows, num_ranks, full=full, fp8_wire=fp8_wire, uneven=uneven, rank=rank)
        for layer in layers
    )


def layers_time(
    layers: Sequence[LayerSizes],
    num_rows: int,
    num_ranks: int,
    rates: Rates,
    way: Way,
    *,
    fp8_wire: bool = False,
    weights: str = "bf16",
) -> dict[str, PartTime]:
    """Returns what the parts that differ between the ways take in all layers, by the parts' names in order.

    Seconds are without what collectives take however small, `rates.call_s` for each of `num_calls`. Ends of the
    pass (the embedding, the last norm) are left out: they are alike but for one norm.

    Raises:
        ValueError: weights that the machine has no unit for.
    """
    times: dict[str, PartTime] = {}
    for layer, count in Counter(layers).items():
        for part in parts(layer, num_rows, num_ranks, way, fp8_wire=fp8_wire):
            so_far = times.get(part.name, PartTime(0.0, 0))
            seconds = so_far.seconds + count * part.seconds(rates, num_ranks, weights)
            times[part.name] = PartTime(seconds, so_far.num_calls + count * bool(part.collective))
    return times


def min_tokens(
    layers: Sequence[LayerSizes],
    num_ranks: int,
    rates: Rates,
    *,
    full: bool = False,
    fp8_wire: bool = False,
    weights: str = "bf16",
) -> int | None:
    """Returns the number of rows, a multiple of R, from which on the scattered layers take less time than the
    plain ones, or None when they never do.

    Gained with each row are bytes on the link, and for (R - 1) / R of the rows the norms and the projection to
    `gathered`, as far as that takes longer than reading its weights; paid once are the collectives that are more.
    The gain grows with the rows, so that the first place where it is above zero is looked for.
    """
    way = Way.FULL if full else Way.SCATTERED

    def gains(rows: int) -> bool:
        plain = layers_time(layers, rows, num_ranks, rates, Way.PLAIN, weights=weights)
        ours = layers_time(layers, rows, num_ranks, rates, way, fp8_wire=fp8_wire, weights=weights)
        paid_s = (_calls(ours) - _calls(plain)) * rates.call_s(num_ranks)
        return _seconds(plain) - _seconds(ours) > paid_s

    above = 1  # in rows of a rank
    while not gains(above * num_ranks):
        above *= 2
        if above > _MOST_ROWS:
            return None
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if gains(middle * num_ranks) else (middle, above)
    return above * num_ranks


def _sent(found: Sequence[Part]) -> int:
    return sum(part.sent for part in found)


def _seconds(times: Mapping[str, PartTime]) -> float:
    return sum(time.seconds for time in times.values())


def _calls(times: Mapping[str, PartTime]) -> int:
    return sum(time.num_calls for time in times.values())
