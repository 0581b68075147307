# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `eplb_load` at vLLM's routers, through which vllm-ascend's layers route from 0.30 on."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import ON_0_23, ON_0_30, Seam, members

_RUNNER = "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner"
_UNTIL_LISTENER = "vLLM hands routed ids to a listener"

ROWS = (
    Seam(
        "vllm_ascend.ops.fused_moe.fused_moe:AscendMoERunner.forward",
        "read",
        "eplb_load",
        ("npu",),
        "a layer that overrides it may route without its router and is refused",
        _UNTIL_LISTENER,
        ("hidden_states", "router_logits"),
        pairs=ON_0_30,
    ),
    *members(
        _RUNNER,
        {"forward": ("hidden_states", "router_logits"), "router": None, "moe_config": None, "layer_name": None},
        "read",
        "eplb_load",
        ("npu",),
        why="a layer and its router, and among how many experts it routes",
        remove_when=_UNTIL_LISTENER,
        pairs=ON_0_30,
    ),
    *members(
        "vllm.model_executor.layers.fused_moe.config:FusedMoEConfig",
        {"num_logical_experts": None, "experts_per_token": None},
        "read",
        "eplb_load",
        ("npu",),
        why="among how many experts a layer routes, and to how many",
        remove_when=_UNTIL_LISTENER,
        pairs=ON_0_30,
    ),
    Seam(
        "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter.set_capture_fn",
        "read",
        "eplb_load",
        ("cpu", "cuda"),
        "vLLM's own hook, which sees logical ids before EPLB's mapping",
        "never: it is vLLM's place for that",
        ("capture_fn",),
        pairs=ON_0_23,
    ),
    Seam(
        "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter.set_capture_fn",
        "read",
        "eplb_load",
        ("npu",),
        "vLLM's own hook: vllm-ascend's routers derive from vLLM's now",
        "never: it is vLLM's place for that",
        ("capture_fn",),
        pairs=ON_0_30,
    ),
)
