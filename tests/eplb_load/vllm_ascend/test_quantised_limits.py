# SPDX-License-Identifier: Apache-2.0
"""Which quantised experts are counted on vllm-ascend, decided by the configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.eplb_load.limits import ASCEND_RULES

RULES = [rule for rule in ASCEND_RULES if rule.setting == "quantization"]
CANNOT_SEE, ONLY_AN_A5 = "cannot see what experts", "has been run with no experts"


def description(**experts: str) -> dict[str, Any]:
    """Of two layers, as ModelSlim writes it: attention as it likes, and the experts as said."""
    by_weight = {
        f"model.layers.{layer}.mlp.experts.{expert}.{projection}_proj.{part}": method
        for layer, method in enumerate(experts.values())
        for expert in range(2)
        for projection in ("gate", "up", "down")
        for part in ("weight", "weight_scale", "weight_offset")
    }
    others = {"model.layers.0.self_attn.q_proj.weight": "W4A4_DYNAMIC", "lm_head.weight": "FLOAT"}
    return {"model_quant_type": "W8A8_DYNAMIC", "version": "1.0.0"} | by_weight | others


def refusal(quantization: str | None, described: dict[str, Any] | None) -> str | None:
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(quantization=quantization),
        quant_config=None if described is None else SimpleNamespace(quant_description=described),
    )
    deployment = Deployment(
        vllm_config,
        ExtConfig.model_validate({"eplb_load": {"enabled": True}}),
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(name="vllm-ascend"),  # type: ignore[arg-type]
    )
    found = [str(refused) for rule in RULES if (refused := rule.check("eplb_load", deployment)) is not None]
    assert len(found) < 2
    return found[0] if found else None


@pytest.mark.parametrize("method", ["W8A8_DYNAMIC", "W8A8_MIX", "W4A8_DYNAMIC", "W4A16", "FLOAT"])
def test_experts_that_can_be_watched_start(method: str) -> None:
    assert refusal("ascend", description(first="W8A8_DYNAMIC", second=method)) is None


def test_unquantised_model_starts() -> None:
    assert refusal(None, None) is None


@pytest.mark.parametrize(
    ("quantization", "described", "why", "name"),
    [
        ("ascend", description(first="W8A8_DYNAMIC", second="W4A4_MXFP4"), ONLY_AN_A5, "'W4A4_MXFP4'"),
        (
            "ascend",
            description(first="W8A8_MXFP8", second="W4A8_MXFP"),
            ONLY_AN_A5,
            "'W4A8_MXFP' and 'W8A8_MXFP8'",
        ),
        ("fp8", None, ONLY_AN_A5, "'fp8'"),
        ("ascend", None, CANNOT_SEE, "'ascend'"),
        ("ascend", {}, CANNOT_SEE, "'ascend'"),
        ("compressed-tensors", {"format": "int-quantized"}, CANNOT_SEE, "'compressed-tensors'"),
    ],
)
def test_other_methods_are_refused_by_name(
    quantization: str, described: dict[str, Any] | None, why: str, name: str
) -> None:
    found = refusal(quantization, described)
    assert found is not None
    assert found.startswith(f"ascend_ext.eplb_load {why} quantised as {name}")
    assert "; use W8A8" in found
