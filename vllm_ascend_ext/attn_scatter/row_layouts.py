# SPDX-License-Identifier: Apache-2.0
"""Gives rows a type for their layout: which part of the batch that a group works on a rank's tensor holds.

The same tensor shape can be all rows, an addend of them, or some of them, and nothing in it tells which. Each is
a type of its own here, made where it is known, so that adding or sending the wrong one raises instead of
computing. A layout is never inferred from a number of rows: with one row, a shard and the batch look the same.

Shapes: R = ranks of the group, T = rows of the batch, P = rows that a rank holds of it, padding included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch

from vllm_ascend_ext.collectives.rows import padded


class LayoutError(TypeError):
    """Reports rows of one layout where another was needed; the message has the names and layouts of all
    operands."""


@dataclass(frozen=True, slots=True)
class RowSplit:
    """Divides the rows of a batch among the ranks, in the order of the ranks.

    counts: rows of each rank, zero allowed. is_padded: every rank holds as many rows as the one with most, zeros
    after its own; otherwise each holds its own only, and the shards are uneven where the counts are.
    """

    counts: tuple[int, ...]
    is_padded: bool = True

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0:
            raise ValueError(f"{list(self.counts)} are not the rows of each rank")

    @classmethod
    def even(cls, num_rows: int, num_ranks: int, *, is_padded: bool = True) -> RowSplit:
        """Splits evenly: ``ceil(T / R)`` rows for each rank, the last ranks having fewer or none."""
        longest = -(-num_rows // num_ranks)
        counts = (min(max(num_rows - rank * longest, 0), longest) for rank in range(num_ranks))
        return cls(tuple(counts), is_padded)

    @property
    def longest(self) -> int:
        """Returns the rows of the rank with most."""
        return max(self.counts)

    @property
    def has_equal_shards(self) -> bool:
        """Returns whether all ranks hold equally many rows, so that collectives of equal parts can exchange
        them."""
        return self.is_padded or min(self.counts) == self.longest

    def held(self, rank: int) -> int:
        """Returns P, the rows that `rank` holds."""
        return self.longest if self.is_padded else self.counts[rank]

    @property
    def num_held(self) -> int:
        """Returns the rows that all ranks together hold."""
        return sum(self.held(rank) for rank in range(self.num_ranks))

    @property
    def num_rows(self) -> int:
        return sum(self.counts)

    @property
    def num_ranks(self) -> int:
        return len(self.counts)

    def begin(self, rank: int) -> int:
        """Returns the row of the batch at which the rows of `rank` begin."""
        return sum(self.counts[:rank])


@dataclass(frozen=True, slots=True, eq=False)
class Replicated:
    """Holds all rows, the same on all ranks: ``[T, ...]``."""

    tensor: torch.Tensor
    name: str

    def __str__(self) -> str:
        return f"{self.name} (replicated, {self.tensor.shape[0]} rows)"


@dataclass(frozen=True, slots=True, eq=False)
class PartialSum:
    """Holds an addend of all rows, ``[T, ...]``; the sum over the ranks is owed."""

    tensor: torch.Tensor
    name: str

    def __str__(self) -> str:
        return f"{self.name} (partial sum, {self.tensor.shape[0]} rows)"


@dataclass(frozen=True, slots=True, eq=False)
class RowShard:
    """Holds this rank's rows of the batch, ``[P, ...]``; a gather is owed.

    Raises:
        LayoutError: the tensor has not P rows, or there is no such rank.
    """

    tensor: torch.Tensor
    name: str
    split: RowSplit
    rank: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.split.num_ranks or self.tensor.shape[0] != self.split.held(self.rank):
            raise LayoutError(
                f"{self.name}: {self.tensor.shape[0]} rows on rank {self.rank} are not a shard of {self.split}"
            )

    def __str__(self) -> str:
        unpadded = "" if self.split.is_padded else ", unpadded"
        return f"{self.name} (shard of {list(self.split.counts)} rows on rank {self.rank}{unpadded})"

    @property
    def num_own(self) -> int:
        """Returns the rows of the shard that are not padding."""
        return self.split.counts[self.rank]

    def with_tensor(self, tensor: torch.Tensor, name: str) -> RowShard:
        """Wraps a result that was computed from each row of the shard by itself."""
        return RowShard(tensor, name, self.split, self.rank)


Rows = Replicated | PartialSum | RowShard
_Kind = TypeVar("_Kind", Replicated, PartialSum, RowShard)


def expect(rows: Rows, kind: type[_Kind], purpose: str) -> _Kind:
    """Checks that `rows` are of `kind`, which `purpose` ("the final norm") needs, and returns them.

    Raises:
        LayoutError: they are not.
    """
    if not isinstance(rows, kind):
        raise LayoutError(f"{purpose} needs rows of kind {kind.__name__}, not {rows}")
    return rows


def add(left: _Kind, right: _Kind, name: str) -> _Kind:
    """Adds rows of one layout; the sum has that layout.

    Raises:
        LayoutError: two layouts, or shards of two splits; `add_once` adds a shard to a partial sum.
    """
    same = type(left) is type(right) and left.tensor.shape == right.tensor.shape
    if isinstance(left, RowShard) and isinstance(right, RowShard):
        same = same and left.split == right.split and left.rank == right.rank
        if same:
            return left.with_tensor(left.tensor + right.tensor, name)
    if not same:
        raise LayoutError(f"cannot add {left} and {right} to {name}")
    return type(left)(left.tensor + right.tensor, name)  # type: ignore[call-arg]


def add_once(partial: PartialSum, shard: RowShard, name: str) -> PartialSum:
    """Adds this rank's rows of `shard` to `partial` in place: over the ranks every row is added exactly once.

    Raises:
        LayoutError: other layouts, or rows of another batch.
    """
    partial = expect(partial, PartialSum, f"{name}: adding {shard} once")
    shard = expect(shard, RowShard, f"{name}: adding to {partial} once")
    if partial.tensor.shape != (shard.split.num_rows, *shard.tensor.shape[1:]):
        raise LayoutError(f"cannot add {shard} to {partial}: not the rows of one batch")
    own = partial.tensor.narrow(0, shard.split.begin(shard.rank), shard.num_own)
    own += shard.tensor[: shard.num_own]
    return PartialSum(partial.tensor, name)


def own_rows(rows: Replicated, split: RowSplit, rank: int) -> RowShard:
    """Returns this rank's shard of rows that it has already: a slice, padded as `split` says, no communication.

    Raises:
        LayoutError: a partial sum, whose slice would still owe the sum, or a shard; or not the rows of `split`.
    """
    rows = expect(rows, Replicated, "taking the own rows")
    if rows.tensor.shape[0] != split.num_rows:
        raise LayoutError(f"cannot split {rows} into {list(split.counts)} rows")
    part = rows.tensor.narrow(0, split.begin(rank), split.counts[rank])
    return RowShard(padded(part, split.held(rank)), rows.name, split, rank)
