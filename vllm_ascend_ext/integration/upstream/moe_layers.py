# SPDX-License-Identifier: Apache-2.0
"""Finds the mixture-of-experts layers of a loaded model, and where EPLB has put their experts."""

from __future__ import annotations

from typing import Any


def moe_layers(runner: Any) -> dict[str, Any]:
    """Returns layer name → mixture-of-experts layer, in forward order, of the target and the draft model."""
    from vllm.model_executor.layers.fused_moe.layer import FusedMoE

    context = runner.compilation_config.static_forward_context
    return {name: layer for name, layer in context.items() if isinstance(layer, FusedMoE)}


def expert_placements(runner: Any) -> dict[str, list[list[int]]]:
    """Returns EPLB's present placement of the target and the draft model, [layers][physical experts] → logical."""
    state = getattr(runner, "eplb_state", None)
    models = [] if state is None else state.model_states.values()
    return {
        "target" if model.model is runner.get_model() else "draft": model.physical_to_logical_map.tolist()
        for model in models
    }


def models_with_moved_experts(runner: Any) -> list[str]:
    """Returns which of the target and the draft model have experts elsewhere than where their weights load: expert
    e in place e, copies behind all experts in the same order."""
    return [
        model
        for model, placement in expert_placements(runner).items()
        if any(expert != place % (max(layer) + 1) for layer in placement for place, expert in enumerate(layer))
    ]
