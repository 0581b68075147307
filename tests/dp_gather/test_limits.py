# SPDX-License-Identifier: Apache-2.0
"""What a planned DP gather refuses, each time for one reason only, with what to do about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.refused import refused
from vllm_ascend_ext.integration.dp_gather.loaded_layers import check_layers
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError


def vllm_config(**changes: Any) -> Any:
    """A supported one, changed at top-level names."""
    settings = {
        "parallel_config": SimpleNamespace(
            data_parallel_size=2,
            all2all_backend="allgather_reducescatter",
            enable_elastic_ep=False,
            use_ubatching=False,
            prefill_context_parallel_size=1,
        ),
        "model_config": SimpleNamespace(model="model", is_moe=True, enable_return_routed_experts=False),
        "speculative_config": None,
        "lora_config": None,
    }
    return SimpleNamespace(**settings | changes)


def message(config: Any, device_type: str = "cpu") -> str:
    """Returns the lines of all refusals; empty when there is none."""
    return "\n".join(refused("dp_gather", config, device_type))


def test_supported() -> None:
    assert message(vllm_config()) == ""


def test_device_on_which_it_has_not_run() -> None:
    text = message(vllm_config(), "cuda")
    assert "dp_gather has not run on this kind of device" in text and "dp_gather.enabled to false" in text


def test_lora() -> None:
    text = message(vllm_config(lora_config=object()))
    assert len(text.splitlines()) == 1 and "LoRA" in text and "turn enable_lora off" in text


def layer(*, gathers_itself: bool, is_monolithic: bool) -> Any:
    """Of vLLM; the kernels of one that gathers by itself have their own prepare and finalize."""
    return SimpleNamespace(
        runner=SimpleNamespace(do_naive_dispatch_combine=not gathers_itself),
        quant_method=SimpleNamespace(is_monolithic=is_monolithic),
        moe_config=SimpleNamespace(is_sequence_parallel=False),
    )


@pytest.mark.parametrize("gathers_itself", [False, True])
def test_kernels_that_route_inside_are_refused(gathers_itself: bool) -> None:
    """Padding would be routed there, whoever gathers the rows."""
    check_layers({"first": layer(gathers_itself=gathers_itself, is_monolithic=False)})
    layers = {
        "first": layer(gathers_itself=gathers_itself, is_monolithic=False),
        "second": layer(gathers_itself=gathers_itself, is_monolithic=True),
    }
    with pytest.raises(UnsupportedCombinationError, match="the experts of second: .* routes inside its kernel"):
        check_layers(layers)
