# SPDX-License-Identifier: Apache-2.0
"""Makes the snapshots of a vLLM runner: their groups of ranks, their limits, and how to tell a step's phase."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.collectives.roll_call import RollCall
from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.device import Device
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.eplb_load.collection import RoutedModel
from vllm_ascend_ext.eplb_load.device_sum import DeviceSum, max_routed_ids
from vllm_ascend_ext.eplb_load.host_sum import HostSum
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX, ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import Snapshots, SumOverRanks
from vllm_ascend_ext.eplb_load.transit import Transit
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks.groups import own_group
from vllm_ascend_ext.integration.upstream.runner_device import device_of


def num_ranks() -> int:
    """Returns the number of ranks whose counts are added up: all that share this stage's experts."""
    from vllm.distributed import get_ep_group

    return int(get_ep_group().world_size)


def is_first_rank() -> bool:
    """Returns whether this rank reports for all ranks whose counts are added up."""
    from vllm.distributed import get_ep_group

    return int(get_ep_group().rank_in_group) == 0


def slot_limit(config: EplbLoadConfig) -> int:
    """Returns how many routed ids a recorder may hold."""
    return max_routed_ids(num_ranks()) if config.aggregation == "device" else INT32_MAX


def check_interval(runner: Any, config: EplbLoadConfig, models: Sequence[RoutedModel]) -> None:
    """Refuses an interval in which a counter could overflow.

    A step has at most max_num_batched_tokens rows, and the draft routes them once more for each of its passes.
    Half of a counter's range is left for snapshots that merge: above the half a snapshot waits for a buffer.

    Raises:
        UnsupportedCombinationError: the interval is too long.
    """
    speculative = runner.speculative_config
    passes = decode_tokens(0 if speculative is None else speculative.num_speculative_tokens)
    rows = runner.scheduler_config.max_num_batched_tokens * passes
    limit = slot_limit(config) // 2
    for model in models:
        largest = limit // (rows * model.top_k)
        if config.interval > largest:
            raise UnsupportedCombinationError(
                f"ascend_ext.eplb_load.interval={config.interval} steps of up to {rows} rows with "
                f"top-{model.top_k} routing could overflow the counters; set interval to at most {largest}"
            )


def make_snapshots(runner: Any, config: EplbLoadConfig, recorders: Sequence[ExpertLoadRecorder]) -> Snapshots:
    """Makes the snapshots that the configuration asks for. Every rank of the stage calls this, to make a group.

    Raises:
        UnsupportedCombinationError: the device has no collectives of its own.
    """
    device = device_of(runner)
    make_sum = _host_sum(config) if config.aggregation == "host" else _device_sum(runner, device, config)
    return Snapshots(recorders, device, make_sum, num_buffers=config.slots, deadline_s=config.deadline_s)


def _host_sum(config: EplbLoadConfig) -> Callable[[Transit], SumOverRanks]:
    return functools.partial(HostSum, _own_group("gloo", config))


def _device_sum(runner: Any, device: Device, config: EplbLoadConfig) -> Callable[[Transit], SumOverRanks]:
    collectives = _own_group(_backend(device), config)
    if collectives is None:
        return functools.partial(DeviceSum, _Alone(), None)
    # the ranks connect now, as connecting would hold up the first snapshot
    collectives.all_reduce_(torch.zeros(1, device=runner.device))
    return functools.partial(DeviceSum, collectives, RollCall(collectives.group, "expert load on the device"))


class _Alone:
    """Stands in for the collectives of a single rank, whose sum is its own counts."""

    num_ranks = 1

    def all_reduce_(self, x: Any) -> None:
        """Leaves `x` as it is."""


def _backend(device: Device) -> str:
    if not device.capabilities.device_collectives:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load.aggregation='device' needs collectives on the device, which "
            f"{device.capabilities.description} has not; set it to 'host'"
        )
    return device.collective_backend


def _own_group(backend: str, config: EplbLoadConfig) -> Collectives | None:
    """Makes a group of the ranks whose counts are added up; None for a single rank."""
    from vllm.distributed import get_ep_group

    ranks = get_ep_group().ranks
    return own_group(ranks, backend, config.deadline_s, "expert load") if len(ranks) > 1 else None


def largest_replica(runner: Any, num_rows: int) -> int:
    """Returns the rows of the replica that has most in the present forward pass.

    vLLM has exchanged the row counts anyway; the function waits until they are there.

    Args:
        runner: the model runner.
        num_rows: rows of this replica, returned where there is no other replica.
    """
    from vllm.forward_context import get_forward_context

    runner.wait_for_row_counts()
    dp_metadata = get_forward_context().dp_metadata
    return num_rows if dp_metadata is None else int(dp_metadata.num_tokens_across_dp_cpu.max())


def decode_rows(runner: Any) -> int:
    """Returns the most rows, padding included, of a step in which every request of a replica only decodes."""
    speculative = runner.speculative_config
    tokens = decode_tokens(0 if speculative is None else speculative.num_speculative_tokens)
    rows = int(runner.scheduler_config.max_num_seqs) * tokens
    sizes = runner.compilation_config.cudagraph_capture_sizes or ()
    rows = min((size for size in sizes if size >= rows), default=rows)
    tp_size = int(runner.parallel_config.tensor_parallel_size)
    return -(-rows // tp_size) * tp_size
