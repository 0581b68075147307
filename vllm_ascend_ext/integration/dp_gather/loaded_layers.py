# SPDX-License-Identifier: Apache-2.0
"""Checks whether layers can follow a plan, as far as only a loaded model tells."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

_OFF = "or set dp_gather.enabled to false"


def check_layers(layers: dict[str, Any]) -> None:
    """Refuses a loaded model of vLLM whose layers cannot follow a plan.

    Raises:
        UnsupportedCombinationError: experts route inside their kernel, or no single way to split rows is found.
    """
    for name, layer in layers.items():
        if layer.quant_method.is_monolithic:  # whether the method gathers the rows or the layer does
            raise UnsupportedCombinationError(
                f"ascend_ext.dp_gather cannot keep padding away from the experts of {name}: "
                f"{type(layer.quant_method).__name__} routes inside its kernel; choose another moe_backend or set "
                "dp_gather.enabled to false"
            )
    if len({bool(layer.moe_config.is_sequence_parallel) for layer in layers.values()}) != 1:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather needs layers that all exchange rows among the same ranks, and there are none or "
            "several kinds; set dp_gather.enabled to false"
        )


def check_ascend_layers(layers: dict[str, Any]) -> None:
    """Refuses a loaded model of vllm-ascend whose layers cannot follow a plan.

    Raises:
        UnsupportedCombinationError: a layer routes by input ids, or has quantised experts.
    """
    from vllm_ascend.ops.fused_moe.fused_moe import AscendUnquantizedFusedMoEMethod

    for name, layer in layers.items():
        if getattr(layer, "tid2eid", None) is not None:
            raise UnsupportedCombinationError(
                f"ascend_ext.dp_gather does not gather the input ids by which {name} routes; use another "
                f"model, {_OFF}"
            )
        method = type(layer.quant_method)
        if method.apply is not AscendUnquantizedFusedMoEMethod.apply:
            raise UnsupportedCombinationError(
                f"ascend_ext.dp_gather is not verified with the quantised experts of {name} ({method.__name__}); "
                f"use an unquantised model, {_OFF}"
            )
