# SPDX-License-Identifier: Apache-2.0
"""Describes where a rank stands in its engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Describes where a rank stands among the ranks of its engine. Each rank but the replica is below its size.

    Attributes:
        tp_rank: tensor-parallel rank in the replica's stage.
        tp_size: number of tensor-parallel ranks.
        replica: data-parallel rank.
        pp_rank: pipeline stage.
        pp_size: number of pipeline stages.
        cp_rank: prefill-context-parallel rank.
        cp_size: number of prefill-context-parallel ranks.
    """

    tp_rank: int
    tp_size: int
    replica: int = 0
    pp_rank: int = 0
    pp_size: int = 1
    cp_rank: int = 0
    cp_size: int = 1

    def __post_init__(self) -> None:
        ranks = {
            "tp": (self.tp_rank, self.tp_size),
            "pp": (self.pp_rank, self.pp_size),
            "cp": (self.cp_rank, self.cp_size),
        }
        wrong = [f"{name} {rank}/{size}" for name, (rank, size) in ranks.items() if not 0 <= rank < size]
        if wrong or self.replica < 0:
            raise ValueError(f"rank outside its group: {', '.join(wrong) or f'replica {self.replica}'}")
