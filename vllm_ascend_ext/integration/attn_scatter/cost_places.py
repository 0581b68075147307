# SPDX-License-Identifier: Apache-2.0
"""Names the places where scattered attention input takes time of a step, and the model's own parts inside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.attn_scatter.decoder import ScatteredLayer
from vllm_ascend_ext.integration.attn_scatter.model import ScatteredModel
from vllm_ascend_ext.runner.step_cost import Handed, Method, Place

_MODEL_PARTS = ("project", "attend", "mlp", "route")


def cost_places(model: ScatteredModel) -> list[Place]:
    """Returns the forward, and what is not ours in it. Its norms, on the shard and in the model's stead, are."""
    places: list[Place] = [Handed("forward", model.forward, model.put_forward)]
    places += [Method("model", model, name, is_theirs=True) for name in ("_plain_forward", "_embed")]
    for layer in model.layers:
        for name in _MODEL_PARTS:
            part = getattr(layer.parts, name)
            if part is not None:
                places.append(Handed("model", part, _put(layer, name), is_theirs=True))
    return places + model.exchange.collectives.cost_places()


def _put(layer: ScatteredLayer, name: str) -> Callable[[Callable[..., Any]], None]:
    """Returns a function that puts another in the place of one of a layer's parts."""

    def put(part: Callable[..., Any]) -> None:
        changed: dict[str, Any] = {name: part}
        layer.parts = dataclasses.replace(layer.parts, **changed)

    return put
