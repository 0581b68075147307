# SPDX-License-Identifier: Apache-2.0
"""Predicts what one gather in latent attention saves where the rows are divided between the layers already.

There attention gathers what it reads: dense latent attention twice, the queries' latent and the keys', which it
norms and copies on each rank's own rows before; sparse attention the rows themselves, which it then projects on
every rank. One gather behind the projection of the own rows saves the dense one a collective, for which the norm
and the copy are of all rows; the sparse one bytes and most of the projection. So the dense one pays in small steps
only. Which steps pay is found by the times of what differs. T = rows, R = ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vllm_ascend_ext.attn_scatter.layer_cost import NORM_OPERATIONS, Part, gather
from vllm_ascend_ext.attn_scatter.row_layouts import RowSplit
from vllm_ascend_ext.machines.rates import Rates

_MOST_ROWS = 1 << 24  # of a rank, beyond any step


@dataclass(frozen=True, slots=True)
class CutSizes:
    """Holds the sizes of a layer's latent attention, in elements of a row.

    hidden: H. query: latent of the queries. key: latent of keys and values with the rotary part. indexer: what the
    indexer of sparse attention reads; 0 for dense attention.
    """

    hidden: int
    query: int
    key: int
    element_bytes: int
    indexer: int = 0

    @property
    def gathered(self) -> int:
        """Returns the width of the one gather."""
        return self.query + self.key + self.indexer

    @property
    def row_bytes(self) -> int:
        """Returns the bytes that the one gather carries of a row."""
        return self.gathered * self.element_bytes


@dataclass(frozen=True, slots=True)
class PayingSteps:
    """Holds the numbers of rows in which one gather pays: from `first` on, up to `last`, or None for no end."""

    first: int
    last: int | None = None

    def __contains__(self, num_rows: int) -> bool:
        return self.first <= num_rows and (self.last is None or num_rows <= self.last)

    def __str__(self) -> str:
        """Returns the range in words."""
        return f"{self.first} rows and more" if self.last is None else f"{self.first} to {self.last} rows"


def parts(sizes: CutSizes, num_rows: int, num_ranks: int, *, once: bool) -> tuple[Part, ...]:
    """Returns what a rank does of what differs, in order. once: with the one gather, else without us."""
    split = RowSplit.even(num_rows, num_ranks)
    return tuple(_once(sizes, split) if once else _theirs(sizes, split))


def saved_s(
    layers: Sequence[CutSizes], num_rows: int, num_ranks: int, rates: Rates, weights: str = "bf16"
) -> float:
    """Returns the seconds of a rank that one gather saves in all layers together; below 0 where it costs.

    Raises:
        ValueError: weights that the machine has no unit for.
    """
    saved = 0.0
    for sizes, count in Counter(layers).items():
        theirs, ours = (
            sum(_seconds(part, rates, num_ranks, weights) for part in parts(sizes, num_rows, num_ranks, once=once))
            for once in (False, True)
        )
        saved += count * (theirs - ours)
    return saved


def paying_steps(
    layers: Sequence[CutSizes], num_ranks: int, rates: Rates, weights: str = "bf16"
) -> PayingSteps | None:
    """Returns the steps in which one gather takes less time in all layers together; None when none does.

    Rows are padded to a multiple of R. What is saved grows with them, or falls, so that there is one range.
    """

    def pays(rows_of_a_rank: int) -> bool:
        return saved_s(layers, rows_of_a_rank * num_ranks, num_ranks, rates, weights) > 0

    first = _first(pays, 1)
    if first is None:
        return None
    end = _first(lambda rows: not pays(rows), first)
    return PayingSteps((first - 1) * num_ranks + 1, None if end is None else (end - 1) * num_ranks)


def _first(holds: Callable[[int], bool], begin: int) -> int | None:
    """Returns the first number from `begin` on for which something holds that then goes on to hold."""
    above = begin
    while not holds(above):
        above *= 2
        if above > _MOST_ROWS:
            return None
    below = max(begin - 1, above // 2)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above


def _theirs(sizes: CutSizes, split: RowSplit) -> Iterator[Part]:
    held, num_rows = split.held(0), split.num_rows
    if sizes.indexer:
        yield gather("rows", split, 0, sizes.hidden * sizes.element_bytes)
        yield _projection(sizes, num_rows)
        yield from _narrow(sizes, num_rows)
        return
    yield _projection(sizes, held)
    yield from _narrow(sizes, held)
    yield gather("queries' latent", split, 0, sizes.query * sizes.element_bytes)
    yield gather("keys' latent", split, 0, sizes.key * sizes.element_bytes)


def _once(sizes: CutSizes, split: RowSplit) -> Iterator[Part]:
    yield _projection(sizes, split.held(0))
    yield gather("latents", split, 0, sizes.row_bytes)
    yield from _narrow(sizes, split.num_rows)


def _projection(sizes: CutSizes, num_rows: int) -> Part:
    weights = sizes.hidden * sizes.gathered
    return Part("projection", flops=2 * num_rows * weights, weights=weights)


def _narrow(sizes: CutSizes, num_rows: int) -> Iterator[Part]:
    """Yields the norm of the queries' latent and the copy that takes the keys' out of the projection's result."""
    elements = num_rows * sizes.query
    yield Part("latent norm", moved=2 * elements * sizes.element_bytes, operations=NORM_OPERATIONS * elements)
    yield Part("copy of keys", moved=2 * num_rows * sizes.key * sizes.element_bytes)


def _seconds(part: Part, rates: Rates, num_ranks: int, weights: str) -> float:
    return part.seconds(rates, num_ranks, weights) + (rates.call_s(num_ranks) if part.collective else 0.0)
