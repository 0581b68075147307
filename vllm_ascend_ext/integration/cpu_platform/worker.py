# SPDX-License-Identifier: Apache-2.0
"""Defines `TorchCPUWorker`, which is vLLM's CPU worker without its thread binding and shared-memory set-up."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import init_worker_distributed_environment

from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner
from vllm_ascend_ext.integration.cpu_platform.moe import register_moe_method
from vllm_ascend_ext.integration.cpu_platform.operators import define_operators
from vllm_ascend_ext.integration.cpu_platform.replacements import for_worker
from vllm_ascend_ext.integration.cpu_platform.streams import install_host_streams
from vllm_ascend_ext.integration.upstream.seams import change


class TorchCPUWorker(CPUWorker):
    """Builds `model_runner_class`, with a device set-up of its own.

    Upstream's `init_device` disables `torch.set_num_threads` for the whole process and looks for LD_PRELOADed
    allocators. Torch's own kernels need neither.
    """

    model_runner_class: ClassVar[type] = TorchCPUModelRunner

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        define_operators()
        register_moe_method()
        change.replace_all(for_worker())
        super().__init__(*args, **kwargs)

    def init_device(self) -> None:
        install_host_streams()
        self.device = torch.device("cpu")
        init_worker_distributed_environment(
            self.vllm_config,
            self.rank,
            self.distributed_init_method,
            self.local_rank,
            current_platform.dist_backend,
        )
        # ranks of one machine share its cores; OMP_NUM_THREADS, if lower, has been read by torch before
        num_local_ranks = self.parallel_config.local_world_size * self.parallel_config.data_parallel_size_local
        fair_share = max(1, len(os.sched_getaffinity(0)) // num_local_ranks)
        torch.set_num_threads(min(torch.get_num_threads(), fair_share))
        set_random_seed(self.model_config.seed)
        self.model_runner: Any = self.model_runner_class(self.vllm_config, self.device)
