# SPDX-License-Identifier: Apache-2.0
"""What vllm-ascend's quantised methods route is shown to the layer that they route for, and to no other.

The methods run until behind their choice, on the CPU: without an engine they have neither weights nor a way to
dispatch. The choice is that of a model with a routing function of its own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_ascend_ext.integration.eplb_load import ascend_quantised
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

pytestmark = pytest.mark.emulator

NUM_TOKENS, NUM_EXPERTS, TOP_K = 5, 8, 2


def layer_of(scheme_name: str) -> Any:
    from vllm_ascend.quantization.method_adapters import AscendFusedMoEMethod
    from vllm_ascend.quantization.methods import get_scheme_class

    scheme_class = get_scheme_class(scheme_name, "moe")
    assert scheme_class is not None
    method, scheme = object.__new__(AscendFusedMoEMethod), object.__new__(scheme_class)
    scheme.multistream_overlap_gate = scheme.dynamic_eplb = False
    method.quant_method, method.tid2eid = scheme, None
    return SimpleNamespace(quant_method=method, n_shared_experts=0)


def route(layer: Any) -> torch.Tensor:
    """Returns the ids [T, K] that were chosen."""
    ids = torch.rand(NUM_TOKENS, NUM_EXPERTS).argsort(-1)[:, :TOP_K].int()
    with pytest.raises(Exception):  # noqa: B017, PT011 - nothing of an engine is there
        layer.quant_method.apply(
            layer=layer,
            x=torch.zeros(NUM_TOKENS, 16),
            router_logits=torch.zeros(NUM_TOKENS, NUM_EXPERTS),
            top_k=TOP_K,
            renormalize=True,
            num_experts=NUM_EXPERTS,
            custom_routing_function=lambda **_: (torch.ones_like(ids, dtype=torch.float32), ids),
        )
    return ids


@pytest.mark.parametrize("scheme", ascend_quantised.WATCHED)
def test_each_method_shows_what_it_routes(scheme: str) -> None:
    first, second, unwatched = (layer_of(scheme) for _ in range(3))
    shown: list[tuple[str, torch.Tensor]] = []
    ascend_quantised.watch("first", first, lambda ids: shown.append(("first", ids)))
    ascend_quantised.watch("second", second, lambda ids: shown.append(("second", ids)))
    expected = [("second", route(second)), ("first", route(first)), ("second", route(second))]
    route(unwatched)
    assert [name for name, _ in shown] == [name for name, _ in expected]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(shown, expected, strict=True))


def test_method_that_routes_otherwise_is_refused() -> None:
    with pytest.raises(UnsupportedCombinationError, match="cannot count experts: how AscendW8A8MXFP8Dynamic"):
        ascend_quantised.watch("experts", layer_of("W8A8_MXFP8"), lambda ids: None)


def test_method_that_chose_nothing_is_an_error() -> None:
    """Rows are never missed in silence."""
    layer = layer_of("W8A8_DYNAMIC")
    layer.quant_method.apply = lambda **_: None
    ascend_quantised.watch("experts", layer, lambda ids: None)
    with pytest.raises(RuntimeError, match="experts has chosen experts 0 times in one forward"):
        layer.quant_method.apply(layer=layer)
