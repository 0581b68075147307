# SPDX-License-Identifier: Apache-2.0
"""DP gather of engines on vllm-ascend, on the emulator with its race checker: every mode gives the tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.dp_gather.test_engine import NUM_TOKENS, check_bytes, gathering, run_modes
from tests.support.reference import make_prompts, transformers_tokens
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]


def test_modes_give_transformers_tokens(tiny_model: str) -> None:
    """DP2 and EP, prefill in chunks, MTP. Without asynchronous scheduling, whose own races are known."""
    prompts = make_prompts(tiny_model)[:5]
    settings = {"enable_prefix_caching": False, "async_scheduling": False}
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        expert_parallel=True,
        num_speculative_tokens=1,
        ascend_ext=gathering(),
        engine_args={"max_num_batched_tokens": 48, "max_num_seqs": 4, **settings},
    )
    outcomes = run_modes(case, prompts, [4, 1])
    check_bytes(outcomes, transformers_tokens(tiny_model, prompts, NUM_TOKENS), {"max_len"})


# (changes to a supported engine, environment, words of the message)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "nothing": ({}, {}, ""),
    "stages": ({"pipeline_parallel_size": 2}, {}, "pipeline stages on the NPU; set pipeline_parallel_size to 1"),
    "EPLB": (
        {"additional_config": {"eplb_config": {"dynamic_eplb": True}}},
        {"DYNAMIC_EPLB": "true"},
        "vllm-ascend's EPLB; turn eplb_config.dynamic_eplb off",
    ),
    "placement": ({"additional_config": {"mix_placement": True}}, {}, "turn mix_placement off"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_verified_is_refused(tiny_model: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    changes, environment, words = REFUSED[name]
    for key, value in environment.items():
        monkeypatch.setenv(key, value)

    def job(rank: Rank) -> str:
        from vllm.engine.arg_utils import EngineArgs

        from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

        arguments: dict[str, Any] = {"data_parallel_size": 2, "enable_expert_parallel": True, **changes}
        arguments["additional_config"] = {"ascend_ext": gathering(), **changes.get("additional_config", {})}
        try:
            EngineArgs(model=tiny_model, enforce_eager=True, max_model_len=512, **arguments).create_engine_config()
        except UnsupportedCombinationError as error:
            return str(error)
        return ""

    [message] = run_ranks(job, Layout(), deadline_s=120)
    assert words in message if words else message == ""


def test_quantised_experts_are_refused() -> None:
    from vllm_ascend.ops.fused_moe.fused_moe import AscendUnquantizedFusedMoEMethod
    from vllm_ascend.quantization.method_adapters import AscendFusedMoEMethod

    from vllm_ascend_ext.integration.dp_gather.loaded_layers import check_ascend_layers
    from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

    plain, quantised = (
        SimpleNamespace(quant_method=object.__new__(method))
        for method in (AscendUnquantizedFusedMoEMethod, AscendFusedMoEMethod)
    )
    check_ascend_layers({"first": plain})
    with pytest.raises(UnsupportedCombinationError, match="the quantised experts of second"):
        check_ascend_layers({"first": plain, "second": quantised})
