# SPDX-License-Identifier: Apache-2.0
"""Answers what the rules of several features ask of a deployment, as the values of the braces in their texts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from vllm_ascend_ext.integration.deployment import Deployment

_FLOAT = "FLOAT"
_EXPERTS = ".experts."  # in the names of their projections


def quantization(deployment: Deployment) -> object:
    """Returns {method} of quantised weights, else None."""
    method = deployment.model is not None and deployment.model.quantization
    return {"method": repr(method)} if method else None


def experts_quantised_otherwise(deployment: Deployment, known: Collection[str]) -> object:
    """Returns {methods} of quantised experts other than the known ones, else None."""
    return named_methods(methods_of_experts(deployment) - set(known))


def methods_of_experts(deployment: Deployment) -> set[str]:
    """Returns how the experts are quantised, as `methods_of_layers` does."""
    return methods_of_layers(deployment, lambda name: _EXPERTS in name)


def methods_beside_experts(deployment: Deployment) -> set[str]:
    """Returns how all layers but the experts are quantised, as `methods_of_layers` does."""
    return methods_of_layers(deployment, lambda name: _EXPERTS not in name)


def methods_of_layers(deployment: Deployment, has_name: Callable[[str], bool]) -> set[str]:
    """Returns how layers of such names are quantised; nothing where they are not.

    The names are those of the checkpoint's description (`quant_model_description.json`), or the name of the whole
    quantisation where there is no description by layers.
    """
    method = deployment.model is not None and deployment.model.quantization
    if not method:
        return set()
    quant_config = getattr(deployment.vllm_config, "quant_config", None)
    description = getattr(quant_config, "quant_description", None)
    if method != "ascend" or not description:
        return {str(method)}
    weights = {name: value for name, value in description.items() if name.rpartition(".")[2] == "weight"}
    return {value for name, value in weights.items() if has_name(name)} - {_FLOAT}


def named_methods(methods: Collection[str]) -> dict[str, str] | None:
    """Returns {methods} as a message names them, None where there are none."""
    return {"methods": " and ".join(map(repr, sorted(methods)))} if methods else None


def dense_model(deployment: Deployment) -> object:
    """Returns {model} without routed experts, else None."""
    model = deployment.model
    return {"model": model.model} if model is not None and not model.is_moe else None


def other_dispatches(deployment: Deployment, known: tuple[str, ...]) -> object:
    """Returns {ways} other than the known ones by which steps may reach the experts, else None."""
    if deployment.model is None:
        return None
    ways = [way for way in deployment.stack.dispatches(deployment.vllm_config) if way not in known]
    return {"ways": " or ".join(ways)} if ways else None


def splits_rows(deployment: Deployment) -> bool:
    """Returns whether vllm-ascend's sequence parallelism (FlashComm v1, or the pass) splits rows among ranks."""
    return deployment.stack.splits_rows(deployment.vllm_config)


def ascend_config(deployment: Deployment) -> Any:
    """Returns vllm-ascend's own configuration, which its platform has made by then."""
    return deployment.stack.own_config(deployment.vllm_config)
