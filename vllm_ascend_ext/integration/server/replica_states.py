# SPDX-License-Identifier: Apache-2.0
"""Bounds the wait of a replica's engine core for the others', every 32 steps, which vLLM's option does not reach.

vLLM makes the engine cores' group where no configuration is current, so that the group's timeout is torch's half
an hour, whatever `--cpu-distributed-timeout-seconds` says. Behind a cut cable both cores then stand there, their
workers idle, and nothing ends.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams


def bound_wait(parallel_config: Any) -> None:
    """Has this engine core exchange its state with a deadline, where vLLM's option gives one."""
    deadline_s = parallel_config.cpu_distributed_timeout_seconds
    if parallel_config.data_parallel_size == 1 or deadline_s is None:
        return

    @functools.lru_cache(maxsize=1)
    def collectives(dp_group: Any) -> Collectives:
        return Collectives(dp_group, deadline_s, "the replicas' engine cores")

    def sync_dp_state(dp_group: Any, has_unfinished: bool, pending_pause: bool) -> tuple[bool, bool]:
        return exchange_states(collectives(dp_group), has_unfinished, pending_pause)

    change.replace(seams.REPLICA_STATES, staticmethod(sync_dp_state))


def exchange_states(replicas: Collectives, has_unfinished: bool, pending_pause: bool) -> tuple[bool, bool]:
    """Returns whether any replica goes on, and whether all have been asked to pause, as vLLM's function does.

    A replica goes on while it has requests, or while only some have been asked to pause.

    Raises:
        CollectiveError: another replica has said nothing within the deadline, or its connection failed.
    """
    said = torch.tensor([has_unfinished, pending_pause], dtype=torch.int32)
    replicas.all_reduce_(said)
    num_unfinished, num_pausing = said.tolist()
    goes_on = num_unfinished > 0 or 0 < num_pausing < replicas.num_ranks
    return goes_on, num_pausing == replicas.num_ranks
