# SPDX-License-Identifier: Apache-2.0
"""Decides which rank sends a replica's output: one rule, applied once to the parallel layout.

Tensor-parallel ranks of a replica sample the same tokens, so one of them sends: rank 0 of the last pipeline stage.
Expert parallelism puts experts of several replicas together but no tokens, so it changes nothing. (FastDeploy's
`save_each_rank = use_ep` let every rank of such a replica send: https://github.com/PaddlePaddle/FastDeploy/pull/7172.)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Describes where a rank stands. Each rank is below its size.

    replica: data-parallel rank; pp: pipeline stage; tp: tensor-parallel rank of the replica's stage; cp:
    prefill-context-parallel rank.
    """

    replica: int
    tp_rank: int
    tp_size: int
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


@dataclass(frozen=True, slots=True)
class OutputRouting:
    """Describes what a rank does with a step's output.

    replica: the replica whose output it is.
    sends: the rank copies the step's output to the host and sends it. One rank of a replica does.
    """

    replica: int
    sends: bool


def route_output(layout: OutputLayout) -> OutputRouting:
    """Applies the rule of this module: rank 0 of the last pipeline stage sends."""
    is_last_stage = layout.pp_rank == layout.pp_size - 1  # the one that samples
    return OutputRouting(layout.replica, is_last_stage and layout.tp_rank == 0 and layout.cp_rank == 0)
