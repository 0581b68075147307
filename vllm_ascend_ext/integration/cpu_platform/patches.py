# SPDX-License-Identifier: Apache-2.0
"""Every symbol of vLLM 0.23.0 that the CPU platform replaces, and when each replacement goes away."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.compat import Patch

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
    """The rows; building them imports the replaced modules' replacements, so call it once vLLM is imported."""
    from vllm_ascend_ext.integration.cpu_platform import moe, sampling

    moe.register_moe_method()
    return [*_mla(), *_experts(), *_kernels(sampling.REPLACEMENTS)]


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
    import vllm.config.parallel as parallel
    from vllm.platforms import current_platform

    from vllm_ascend_ext.integration.cpu_platform.moe import eplb_map_to_physical_and_record

    gate = parallel.current_platform
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
        ),
        Patch(
            target="vllm.config.parallel:current_platform",
            replacement=gate if isinstance(gate, _EplbCapable) else _EplbCapable(current_platform),
            reason="enable_eplb is refused unless the platform says it is CUDA; this module asks nothing else",
            upstream=_UPSTREAM + "config/parallel.py",
            remove_when="the check asks for a capability instead of a device",
        ),
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
