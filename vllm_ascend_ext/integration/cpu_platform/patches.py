# SPDX-License-Identifier: Apache-2.0
"""Every symbol of vLLM 0.23.0 that the CPU platform replaces, and when each replacement goes away."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.upstream.patches import Patch

_UPSTREAM = "https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/"


class _EplbCapable:
    """Stands for the platform where vLLM asks "is this CUDA?" and means "can this rebalance experts?"."""

    def __init__(self, platform: Any) -> None:
        self._platform = platform

    def is_cuda_alike(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)


def patches() -> list[Patch]:
    """All rows, for `doctor` and the tests."""
    return [*configuration_patches(), *worker_patches()]


def configuration_patches() -> list[Patch]:
    """What must be in place before a `VllmConfig` is built: applied by the general plug-in in every process."""
    import vllm.config.parallel as parallel
    from vllm.platforms import current_platform

    gate = parallel.current_platform
    return [
        Patch(
            target="vllm.config.parallel:current_platform",
            replacement=gate if isinstance(gate, _EplbCapable) else _EplbCapable(current_platform),
            reason="enable_eplb is refused unless the platform says it is CUDA-alike; all else is passed on",
            upstream=_UPSTREAM + "config/parallel.py",
            remove_when="the check asks for a capability instead of a device",
        )
    ]


def worker_patches() -> list[Patch]:
    """What the model and the sampler use: applied by the worker, so that other processes need not import it."""
    from vllm_ascend_ext.integration.cpu_platform import sampling

    return [*_mla(), *_experts(), *_sampler(), *_kernels(sampling.REPLACEMENTS)]


def _mla() -> list[Patch]:
    from vllm_ascend_ext.integration.cpu_platform.mla import get_mla_prefill_backend

    return [
        Patch(
            target=f"{module}:get_mla_prefill_backend",
            replacement=get_mla_prefill_backend,
            reason="the selector falls back to FlashAttention when a device has no compute capability",
            upstream=_UPSTREAM + "v1/attention/backends/mla/prefill/selector.py",
            remove_when="vLLM asks the platform for the prefill backend (get_mla_prefill_backend_cls)",
            parameters=("vllm_config",),
        )
        for module in (
            "vllm.v1.attention.backends.mla.prefill.selector",
            "vllm.v1.attention.backends.mla.prefill",
            "vllm.model_executor.layers.attention.mla_attention",
        )
    ]


def _experts() -> list[Patch]:
    from vllm_ascend_ext.integration.cpu_platform.moe import eplb_map_to_physical_and_record

    return [
        Patch(
            target="vllm.model_executor.layers.fused_moe.router.base_router:eplb_map_to_physical_and_record",
            replacement=eplb_map_to_physical_and_record,
            reason="off CUDA, vLLM's version neither maps logical to physical experts nor counts them",
            upstream=_UPSTREAM + "model_executor/layers/fused_moe/router/base_router.py",
            remove_when="vLLM ships a torch version for other devices",
            parameters=(
                "topk_ids",
                "expert_load_view",
                "logical_to_physical_map",
                "logical_replica_count",
                "record_enabled",
            ),
        )
    ]


def _sampler() -> list[Patch]:
    return [
        Patch(
            target="vllm.v1.sample.ops.topk_topp_sampler:HAS_TRITON",
            replacement=False,
            reason="with CUDA_VISIBLE_DEVICES='' vLLM takes Triton for usable; top-k and top-p then fail",
            upstream=_UPSTREAM + "triton_utils/importing.py",
            remove_when="vLLM asks Triton for a driver also when CUDA_VISIBLE_DEVICES is empty",
        )
    ]


def _kernels(replacements: Any) -> list[Patch]:
    return [
        Patch(
            target=target,
            replacement=replacement,
            reason="a Triton kernel whose CPU stand-in calls the compiled extension (and drops some results)",
            upstream=_UPSTREAM + "utils/cpu_triton_utils.py",
            remove_when="vLLM's CPU stand-ins are plain torch",
        )
        for target, replacement in replacements.items()
    ]
