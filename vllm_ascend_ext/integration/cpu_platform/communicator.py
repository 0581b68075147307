# SPDX-License-Identifier: Apache-2.0
"""Exchanges what layers exchange (`TorchCpuCommunicator`), through our counted, deadline-bound `Collectives`.

Upstream's CPU communicator has no variable all-gather and reduce-scatter (data parallelism for MoE fails), and
its shared-memory path needs the compiled extension and leaks segments. What vLLM sends over a process group
without its communicator is not counted here: step metadata among DP ranks, which gets our deadline
(`exchange_row_counts`), and weights that EPLB moves, whose timeout is the group's own.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed import get_dp_group
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager
from vllm.distributed.device_communicators.base_device_communicator import DeviceCommunicatorBase

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.integration.ranks import traffic
from vllm_ascend_ext.integration.ranks.deadline import deadline_s


class TorchCpuCommunicator(DeviceCommunicatorBase):
    """Runs Gloo collectives along any dimension; rows may differ between ranks in the `v` variants."""

    supports_tensor_dict = False  # vLLM then sends pickled metadata and tensors over the group

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.collectives = Collectives(self.device_group, timeout_s=deadline_s(), name=self.unique_name)
        traffic.register(self.unique_name, self.collectives)
        # of `exchange_row_counts`, apart from the traffic of layers
        self.row_counts = Collectives(self.device_group, deadline_s(), f"row counts over {self.unique_name}")
        if self.use_all2all:
            self.all2all_manager = AgRsAll2AllManager(self.cpu_group)

    def all_reduce(self, input_: torch.Tensor) -> torch.Tensor:
        self.collectives.all_reduce_(input_)
        return input_

    def all_gather(self, input_: torch.Tensor, dim: int = -1) -> torch.Tensor:
        rows = input_.movedim(dim, 0)
        return self.collectives.all_gather_rows(rows.contiguous(), None).movedim(0, dim).contiguous()

    def all_gatherv(
        self, input_: torch.Tensor | list[torch.Tensor], dim: int = 0, sizes: list[int] | None = None
    ) -> Any:
        if dim != 0:
            raise ValueError(f"all_gatherv gathers rows (dim=0), not dim={dim}")
        if isinstance(input_, torch.Tensor):
            return self.collectives.all_gather_rows(input_.contiguous(), sizes)
        return [self.collectives.all_gather_rows(x.contiguous(), sizes) for x in input_]

    def reduce_scatter(self, input_: torch.Tensor, dim: int = -1) -> torch.Tensor:
        rows = input_.movedim(dim, 0).contiguous()
        if rows.shape[0] % self.world_size:
            raise ValueError(
                f"reduce_scatter over {self.world_size} ranks of {rows.shape[0]} rows; pad them first"
            )
        sizes = [rows.shape[0] // self.world_size] * self.world_size
        return self.collectives.reduce_scatter_rows(rows, sizes).movedim(0, dim).contiguous()

    def reduce_scatterv(self, input_: torch.Tensor, dim: int = -1, sizes: list[int] | None = None) -> torch.Tensor:
        if dim not in (0, -input_.dim()):
            raise ValueError(f"reduce_scatterv scatters rows (dim=0), not dim={dim}")
        if sizes is None:
            return self.reduce_scatter(input_, 0)
        return self.collectives.reduce_scatter_rows(input_.contiguous(), sizes)

    def gather(self, input_: torch.Tensor, dst: int = 0, dim: int = -1) -> torch.Tensor | None:
        gathered = self.collectives.gather_rows(input_.movedim(dim, 0).contiguous(), None, dst)
        return None if gathered is None else gathered.movedim(0, dim).contiguous()

    def dispatch_router_logits(self, *args: Any, **kwargs: Any) -> Any:
        assert self.all2all_manager is not None
        return self.all2all_manager.dispatch_router_logits(*args, **kwargs)

    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        assert self.all2all_manager is not None
        return self.all2all_manager.dispatch(*args, **kwargs)

    def combine(self, *args: Any, **kwargs: Any) -> Any:
        assert self.all2all_manager is not None
        return self.all2all_manager.combine(*args, **kwargs)


def exchange_row_counts(
    should_ubatch: bool,
    orig_num_tokens_per_ubatch: int,
    padded_num_tokens_per_ubatch: int,
    cudagraph_mode: int,
    parallel_config: Any,
) -> torch.Tensor:
    """Returns what all replicas say of a pass, ``[4, dp]`` int32, as vLLM's function does, whose wait for a silent
    replica ends after torch's half an hour, whatever vLLM's timeouts are.

    Raises:
        CollectiveError: a replica has said nothing within the deadline.
    """
    own = (orig_num_tokens_per_ubatch, padded_num_tokens_per_ubatch, int(should_ubatch), cudagraph_mode)
    said = torch.zeros(len(own), parallel_config.data_parallel_size, dtype=torch.int32)
    said[:, parallel_config.data_parallel_rank] = torch.tensor(own, dtype=torch.int32)
    get_dp_group().device_communicator.row_counts.all_reduce_(said)
    return said
