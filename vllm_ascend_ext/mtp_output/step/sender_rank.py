# SPDX-License-Identifier: Apache-2.0
"""Decides which rank sends a replica's output: one rule, applied once to the parallel place.

Tensor-parallel ranks of a replica sample the same tokens, so one of them sends: rank 0 of the last pipeline stage.
Expert parallelism puts experts of several replicas together but no tokens, so it changes nothing. (FastDeploy's
`save_each_rank = use_ep` let every rank of such a replica send: https://github.com/PaddlePaddle/FastDeploy/pull/7172.)
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ascend_ext.rank_place import RankPlace


@dataclass(frozen=True, slots=True)
class OutputRouting:
    """Describes what a rank does with a step's output.

    replica: the replica whose output it is.
    sends: the rank copies the step's output to the host and sends it. One rank of a replica does.
    """

    replica: int
    sends: bool


def route_output(place: RankPlace) -> OutputRouting:
    """Applies the rule of this module: rank 0 of the last pipeline stage sends."""
    is_last_stage = place.pp_rank == place.pp_size - 1  # the one that samples
    return OutputRouting(place.replica, is_last_stage and place.tp_rank == 0 and place.cp_rank == 0)
