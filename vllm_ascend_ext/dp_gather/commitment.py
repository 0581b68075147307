# SPDX-License-Identifier: Apache-2.0
"""Computes what a replica promises about its next pass, so that nobody need ask it when the pass comes: integers
only.

A bound alone can be broken by a request that has just arrived. A commitment cannot: while one is in force the
replica's scheduler admits nobody, and running requests only become fewer. A new request is held for one pass at
most, because a replica that sees one waiting commits to nothing.

Commitments belong to passes, not to calls of the scheduler: the one that pass p carries is about pass p + 1, and
is in force until p + 1 has begun, however often the scheduler is asked meanwhile and finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CommitmentError(RuntimeError):
    """Reports that a replica has more rows than it committed to, and the others have planned by that."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """Bounds one replica's next pass; all zero: the pass may hold anything.

    Attributes:
        max_rows: rows of the target model at most, and of the draft model's first pass.
        max_draft_rows: rows of each later pass of the draft model at most.
    """

    max_rows: int
    max_draft_rows: int

    def __post_init__(self) -> None:
        if min(self.max_rows, self.max_draft_rows) < 0 or (self.max_rows == 0) != (self.max_draft_rows == 0):
            raise ValueError(f"{self.max_rows} rows and {self.max_draft_rows} draft rows are no commitment")

    @property
    def is_open(self) -> bool:
        """Returns whether nothing is promised."""
        return self.max_rows == 0


OPEN = Commitment(0, 0)


def commit(
    *, num_waiting: int, all_decode: bool, num_running: int, decode_rows: int, row_limit: int
) -> Commitment:
    """Returns what a replica can promise about its next pass once this one is decided.

    An idle replica promises too, a dummy: otherwise it alone would keep all others from planning ahead.

    Args:
        num_waiting: requests that want to be admitted or resumed.
        all_decode: every running request is past its prompt after this pass.
        num_running: requests that are in the next pass unless they stop.
        decode_rows: rows of a request that decodes, at most: 1 + drafts. A dummy has as many, in every pass of it.
        row_limit: rows of any pass at most, from the configuration.
    """
    if num_waiting or not all_decode:
        return OPEN
    limit = max(row_limit, decode_rows)  # which a dummy keeps to
    return Commitment(
        max_rows=min(max(num_running, 1) * decode_rows, limit),
        max_draft_rows=min(max(num_running, decode_rows), limit),
    )


class Admission:
    """Decides whether one replica's scheduler may admit requests: not while a commitment about the next pass is in
    force."""

    def __init__(self) -> None:
        self._in_force = OPEN

    @property
    def holds(self) -> bool:
        """Returns whether the next pass was promised to hold running requests only."""
        return not self._in_force.is_open

    def pass_decided(self, about_the_next: Commitment) -> None:
        """Puts the commitment of a pass, real or dummy, in force. A schedule without rows is no pass."""
        self._in_force = about_the_next


def bounds(gathered: Sequence[Commitment]) -> tuple[Commitment, ...] | None:
    """Returns every replica's bound of the pass, or None where the counts have to be asked for.

    From what all replicas know alike and nothing else, so that all decide alike.
    """
    if not gathered or any(commitment.is_open for commitment in gathered):
        return None
    return tuple(gathered)


def check(rows: int, bound: int, replica: int) -> None:
    """Holds a replica to its promise.

    Raises:
        CommitmentError: it has more rows.
    """
    if rows > bound:
        raise CommitmentError(
            f"replica {replica} has {rows} rows in a pass for which it committed to at most {bound}; the other "
            "replicas have planned by that. Set ascend_ext.dp_gather.counts_ahead to false"
        )


def encode(commitment: Commitment, replica: int, num_replicas: int) -> list[int]:
    """Returns a replica's entry in a vector of 2 * num_replicas integers; `decode` reads the sum over the
    replicas."""
    vector = [0] * (2 * num_replicas)
    vector[2 * replica : 2 * replica + 2] = commitment.max_rows, commitment.max_draft_rows
    return vector


def decode(vector: Sequence[int]) -> tuple[Commitment, ...]:
    """Returns every replica's commitment from the sum of all `encode`d vectors."""
    return tuple(Commitment(*pair) for pair in zip(vector[::2], vector[1::2], strict=True))
