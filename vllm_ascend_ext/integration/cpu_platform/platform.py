# SPDX-License-Identifier: Apache-2.0
"""Defines `TorchCpuPlatform`, which is vLLM's CPU platform with torch in place of the compiled extension."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import vllm.envs as vllm_envs
from vllm.platforms.cpu import CpuPlatform

from vllm_ascend_ext import envs
from vllm_ascend_ext.integration.cpu_platform.limits import refuse_unsupported
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream import versions
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import cpu_platform as seams

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger(__name__)

# time that torch.distributed waits for a silent rank, instead of half an hour
_GROUP_TIMEOUT_S = 300

_ROOM = "vllm_ascend_ext.integration.cpu_platform"


class TorchCpuPlatform(CpuPlatform):
    """Keeps `device_type`, scheduler and model code of upstream, and brings its own kernels and communicator.

    Attributes:
        ray_device_key: what Ray counts a rank's place as: the name that vllm-ascend's platform gives.
    """

    ray_device_key: str = "NPU"

    @classmethod
    def import_kernels(cls) -> None:
        """Defines the `_C` operators in Python instead of loading a compiled library."""
        from vllm_ascend_ext.integration.cpu_platform.operators import define_operators

        define_operators()

    @classmethod
    def replace_for_configuration(cls) -> None:
        """Replaces what a configuration relies on; the general plug-in calls it in every process."""
        from vllm_ascend_ext.integration.cpu_platform.replacements import for_configuration

        versions.check_vllm_version()
        change.replace_all(for_configuration())

    @classmethod
    def get_attn_backend_cls(
        cls, selected_backend: Any, attn_selector_config: Any, num_heads: int | None = None
    ) -> str:
        """Returns our torch backend for MLA, and for all else vLLM's CPU_ATTN, which calls our torch operators."""
        if attn_selector_config.use_mla:
            return f"{_ROOM}.mla.TorchMLABackend"
        return str(super().get_attn_backend_cls(selected_backend, attn_selector_config, num_heads))

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return f"{_ROOM}.communicator.TorchCpuCommunicator"

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        """Runs the upstream hook, then takes back what the hook turns off only for lack of an implementation."""
        scheduler_config = vllm_config.scheduler_config
        parallel_config = vllm_config.parallel_config
        owners = {
            seams.ASYNC_SCHEDULING: scheduler_config,
            seams.CHUNKED_PREFILL: scheduler_config,
            seams.BATCHED_TOKENS: scheduler_config,
            seams.EXECUTOR: parallel_config,
        }
        chosen = {seam: getattr(owner, seam.name) for seam, owner in owners.items()}
        if parallel_config.worker_cls == "auto":
            change.replace(seams.WORKER_CLASS, f"{_ROOM}.worker.TorchCPUWorker", parallel_config)
        try:
            refuse_unsupported(vllm_config)
        except UnsupportedCombinationError:
            # the features are asked all the same, about what would run
            _use_native_layers(vllm_config.compilation_config)
            raise
        super().check_and_update_config(vllm_config)
        for seam, owner in owners.items():
            change.replace(seam, chosen[seam], owner)
        _use_native_layers(vllm_config.compilation_config)
        _use_synchronous_eplb(parallel_config)
        _leave_threads_unbound()
        if parallel_config.cpu_distributed_timeout_seconds is None:
            change.replace(seams.GROUP_TIMEOUT, _GROUP_TIMEOUT_S, parallel_config)


def _use_native_layers(compilation_config: Any) -> None:
    """Makes every `CustomOp` run natively and uncompiled.

    There are no kernels here, and the compiled CPU path of rope is wrong for MLA:
    https://github.com/vllm-project/vllm/blob/v0.23.0/csrc/cpu/pos_encoding.cpp takes the number of heads from
    the last dimension, so that only head 0 of a 3-D query is rotated.
    """
    from vllm.config import CompilationMode

    if compilation_config.mode not in (None, CompilationMode.NONE) or "all" in compilation_config.custom_ops:
        logger.info("the CPU platform runs layers natively and uncompiled: compilation mode NONE, custom_ops none")
    change.replace(seams.MODE, CompilationMode.NONE, compilation_config)
    ops = compilation_config.custom_ops
    ops[:] = [op for op in ops if op not in ("all", "none")] + ["none"]


def _use_synchronous_eplb(parallel_config: Any) -> None:
    """Has EPLB move experts inside the step.

    The asynchronous worker needs a CUDA device index and a second stream.
    """
    if not parallel_config.enable_eplb:
        return
    eplb_config = parallel_config.eplb_config
    if eplb_config.use_async:
        logger.info("EPLB on the CPU rearranges synchronously (use_async needs a second stream)")
        change.replace(seams.USE_ASYNC, False, eplb_config)
    if eplb_config.communicator not in (None, "torch_gloo"):
        raise UnsupportedCombinationError(
            f"EPLB communicator {eplb_config.communicator!r} does not exist on the CPU; use 'torch_gloo'"
        )
    change.replace(seams.COMMUNICATOR, "torch_gloo", eplb_config)


def _leave_threads_unbound() -> None:
    """Lets several workers share a NUMA node, unless the user binds their threads.

    vLLM's own launcher by default binds each worker to a node of its own and stops when there are fewer nodes
    than workers, which is so on any machine with one socket.
    https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/utils/ompmultiprocessing.py
    """
    if not vllm_envs.is_set("VLLM_CPU_OMP_THREADS_BIND"):
        envs.export({"VLLM_CPU_OMP_THREADS_BIND": "nobind"})
