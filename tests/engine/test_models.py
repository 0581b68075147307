# SPDX-License-Identifier: Apache-2.0
"""Other models on the CPU platform: grouped-query attention and softmax routing, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.reference import QWEN3_MOE, make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen3-MoE": ("Qwen3MoeConfig", QWEN3_MOE),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> str:
    config_name, extra = MODELS[request.param]
    return write_model(tmp_path_factory.mktemp("model"), tiny_model, config_name, **extra)


def test_tokens_equal_transformers(model: str, tiny_model: str) -> None:
    prompts = make_prompts(tiny_model)[:8]
    expected = transformers_tokens(model, prompts, NUM_TOKENS)
    assert len({tokens for tokens in expected}) > 4  # not degenerate
    routed = "num_experts" in (Path(model) / "config.json").read_text()
    for layout in (Layout(), Layout(tp=2)):
        case = EngineCase(
            model,
            layout,
            expert_parallel=routed and layout.tp > 1,
            ascend_ext={"eplb_load": {"enabled": True}} if routed else None,
            engine_args={"max_num_batched_tokens": 48, "max_num_seqs": 6},
        )
        result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=180)
        assert result.token_ids == expected, layout
