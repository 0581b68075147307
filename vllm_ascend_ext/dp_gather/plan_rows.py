# SPDX-License-Identifier: Apache-2.0
"""Lays out which rows each rank puts where in the buffer that the experts read: integers only.

dp = replicas, tp = attention-TP ranks of a replica; the gather has dp * tp ranks, rank = replica * tp + tp_rank.
A replica's rows, rounded up to a multiple of tp, are split evenly among its tp ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate


class PlanInputError(ValueError):
    """Reports numbers that no plan can be made for."""


class GatherMode(str, Enum):
    """Names the modes of exchanging rows.

    MAX_LEN: every rank sends as many rows as the longest; all-gather, reduce-scatter back.
    SUM_LEN: every rank adds its rows to a zeroed buffer of all rows; all-reduce, all-reduce and slice back.
    VARIABLE: every rank sends what it has; variable all-gather, variable reduce-scatter back.
    """

    MAX_LEN = "max_len"
    SUM_LEN = "sum_len"
    VARIABLE = "variable"


@dataclass(frozen=True, slots=True)
class Topology:
    """Describes the ranks of one gather.

    dp_size: replicas. attn_tp_size: ranks among which a replica's rows are split before the gather; 1 when each
    rank of the gather holds all rows of its replica.
    """

    dp_size: int
    attn_tp_size: int = 1

    def __post_init__(self) -> None:
        if self.dp_size < 1 or self.attn_tp_size < 1:
            raise PlanInputError(f"sizes must be positive: dp {self.dp_size}, attention TP {self.attn_tp_size}")

    @property
    def num_ranks(self) -> int:
        return self.dp_size * self.attn_tp_size

    def rounded(self, count: int) -> int:
        """Rounds `count` up to a multiple of the attention-TP size; 0 stays 0."""
        return -(-count // self.attn_tp_size) * self.attn_tp_size


@dataclass(frozen=True, slots=True)
class GatherRows:
    """Holds the rows of one mode; every tuple has one number a rank, unless it says otherwise.

    Attributes:
        padded: rows of each replica (dp numbers) in the buffer, padding included.
        real: rows that belong to requests.
        held: rows that the rank has before the gather: its part of the rounded count.
        placed: rows of the buffer that are the rank's.
        offsets: the first of them.
        num_rows: rows of the buffer.
    """

    padded: tuple[int, ...]
    real: tuple[int, ...]
    held: tuple[int, ...]
    placed: tuple[int, ...]
    offsets: tuple[int, ...]
    num_rows: int

    @property
    def num_pad_rows(self) -> int:
        return self.num_rows - sum(self.real)

    def pad_spans(self) -> list[tuple[int, int]]:
        """Returns (begin, end) of the rows of the buffer that are padding, in order, without empty ones."""
        ends = (offset + placed for offset, placed in zip(self.offsets, self.placed, strict=True))
        begins = (offset + real for offset, real in zip(self.offsets, self.real, strict=True))
        return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]


def lay_out(counts: Sequence[int], topology: Topology, mode: GatherMode) -> GatherRows:
    """Returns the rows of `mode` when the replicas have `counts` rows.

    Raises:
        PlanInputError: not one count a replica, or a negative one.
    """
    if len(counts) != topology.dp_size or min(counts) < 0:
        raise PlanInputError(f"{list(counts)} are not the rows of {topology.dp_size} replicas")
    tp_size = topology.attn_tp_size
    rounded = [topology.rounded(count) for count in counts]
    held = [count // tp_size for count in rounded for _ in range(tp_size)]
    real = [
        min(max(count - tp_rank * (whole // tp_size), 0), whole // tp_size)
        for count, whole in zip(counts, rounded, strict=True)
        for tp_rank in range(tp_size)
    ]
    padded = [max(rounded)] * topology.dp_size if mode is GatherMode.MAX_LEN else rounded
    placed = [count // tp_size for count in padded for _ in range(tp_size)]
    offsets = [0, *accumulate(placed)]
    return GatherRows(tuple(padded), tuple(real), tuple(held), tuple(placed), tuple(offsets[:-1]), offsets[-1])
