# SPDX-License-Identifier: Apache-2.0
"""Names the places where scattered attention input takes time of a step, and the model's own parts inside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.attn_scatter.decoder import ScatteredLayer
from vllm_ascend_ext.integration.attn_scatter.model import ScatteredModel, SteppedModel
from vllm_ascend_ext.runner.step_cost import Handed, Method, Place

_MODEL_PARTS = ("project", "attend", "mlp", "route")


def cost_places(model: SteppedModel) -> list[Place]:
    """Returns the forward, and what is not ours in it. Its norms, on the shard and in the model's stead, are."""
    places: list[Place] = [Handed("forward", model.forward, model.put_forward)]
    places.append(Method("model", model, "_plain_forward", is_theirs=True))
    if isinstance(model, ScatteredModel):
        places.append(Method("model", model, "_embed", is_theirs=True))
        places += [place for layer in model.layers for place in _places_of(layer)]
    return places + model.exchange.collectives.cost_places()


def _places_of(layer: ScatteredLayer) -> list[Place]:
    parts = [(name, getattr(layer.parts, name)) for name in _MODEL_PARTS]
    return [Handed("model", part, _put(layer, name), is_theirs=True) for name, part in parts if part is not None]


def _put(layer: ScatteredLayer, name: str) -> Callable[[Callable[..., Any]], None]:
    """Returns a function that puts another in the place of one of a layer's parts."""

    def put(part: Callable[..., Any]) -> None:
        changed: dict[str, Any] = {name: part}
        layer.parts = dataclasses.replace(layer.parts, **changed)

    return put
