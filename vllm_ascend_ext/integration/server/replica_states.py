# SPDX-License-Identifier: Apache-2.0
"""Bounds the wait of a replica's engine core for the others', every 32 steps, which vLLM's option does not reach.

vLLM makes the engine cores' group where no configuration is current, so that the group's timeout is torch's half
an hour, whatever `--cpu-distributed-timeout-seconds` says. Behind a cut cable both cores then stand there, their
workers idle, and nothing ends.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vllm_ascend_ext.collectives.calls import CollectiveError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams


def bound_wait(parallel_config: Any) -> None:
    """Has this engine core exchange its state with a deadline, where vLLM's option gives one."""
    deadline_s = parallel_config.cpu_distributed_timeout_seconds
    if parallel_config.data_parallel_size == 1 or deadline_s is None:
        return
    rank = parallel_config.data_parallel_rank

    def sync_dp_state(dp_group: Any, has_unfinished: bool, pending_pause: bool) -> tuple[bool, bool]:
        return exchange_states(dp_group, has_unfinished, pending_pause, deadline_s, rank)

    change.replace(seams.REPLICA_STATES, staticmethod(sync_dp_state))


def exchange_states(
    dp_group: Any, has_unfinished: bool, pending_pause: bool, deadline_s: float, rank: int
) -> tuple[bool, bool]:
    """Returns whether any replica goes on, and whether all have been asked to pause, as vLLM's function does.

    A replica goes on while it has requests, or while only some have been asked to pause.

    Raises:
        CollectiveError: another replica has said nothing for `deadline_s` seconds, or its connection failed.
    """
    said = torch.tensor([has_unfinished, pending_pause], dtype=torch.int32)
    num_replicas = dp_group.size()
    try:
        work = dist.all_reduce(said, group=dp_group, async_op=True)
        work.wait(timedelta(seconds=deadline_s))
    except RuntimeError as error:
        others = tuple(other for other in range(num_replicas) if other != rank)
        raise CollectiveError(
            f"the engine core of replica {rank} waited up to {deadline_s} s for those of replicas {list(others)}, "
            f"one of which does not say whether it has requests ({error})",
            others,
        ) from error
    num_unfinished, num_pausing = said.tolist()
    goes_on = num_unfinished > 0 or 0 < num_pausing < num_replicas
    return goes_on, num_pausing == num_replicas
