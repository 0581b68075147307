# SPDX-License-Identifier: Apache-2.0
"""Defines `RankPlace`, the place of a rank in its engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Describes where a rank stands. Each rank is below its size.

    Attributes:
        tp_rank: tensor-parallel rank in the replica's stage.
        replica: data-parallel rank.
        pp_rank: pipeline stage.
        cp_rank: prefill-context-parallel rank.
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
