# SPDX-License-Identifier: Apache-2.0
"""Describes one step by plain integers that never change once read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllm_ascend_ext.rank_place import RankPlace


@dataclass(frozen=True, slots=True)
class StepFacts:
    """Describes one forward pass of this rank.

    Attributes:
        step: number of the step that the pass belongs to.
        num_tokens: rows that belong to requests; 0 in a dummy run (warm-up, capture, an idle rank keeping step).
        num_tokens_padded: rows that the model is called with, padding included.
        max_num_rows: rows of the replica that has most, the same on all ranks; None for this replica's rows.
    """

    step: int
    num_tokens: int
    num_tokens_padded: int
    max_num_rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.num_tokens <= self.num_tokens_padded:
            raise ValueError(
                f"step {self.step}: {self.num_tokens} tokens do not fit into {self.num_tokens_padded} padded rows"
            )

    def phase(self, decode_rows: int) -> Literal["prefill", "decode"]:
        """Returns the phase of the step, on which all ranks agree.

        Args:
            decode_rows: most rows of a step in which every request of a replica only decodes.
        """
        rows = self.num_tokens_padded if self.max_num_rows is None else self.max_num_rows
        return "decode" if rows <= decode_rows else "prefill"

    def num_routed_tokens(self, place: RankPlace, *, sequence_parallel: bool) -> int:
        """Returns how many rows this rank has to count, so that the sum over the TP ranks is `num_tokens` exactly.

        Args:
            place: place of this rank in its engine.
            sequence_parallel: whether the model splits the rows among the TP ranks before the experts. If so, each
                rank counts the real rows among its ceil(padded / tp) rows; otherwise all TP ranks route the same
                rows, and TP rank 0 counts them.
        """
        if not sequence_parallel:
            return self.num_tokens if place.tp_rank == 0 else 0
        chunk = -(-self.num_tokens_padded // place.tp_size)
        return min(max(self.num_tokens - place.tp_rank * chunk, 0), chunk)
