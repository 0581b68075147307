# SPDX-License-Identifier: Apache-2.0
"""Other models on the CPU platform: grouped-query attention and softmax routing, against transformers.

The weights are random but of realistic scale (no degenerate outputs), made here from the configuration.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.reference import make_prompts, transformers_tokens
from vllm_ascend_ext.integration.engine import EngineCase, run_engine
from vllm_ascend_ext.integration.ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 16
SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen3-MoE": (
        "Qwen3MoeConfig",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> str:
    """A checkpoint with N(0, 1/fan_in) matrices and the tiny model's tokenizer."""
    config_name, extra = MODELS[request.param]
    folder = tmp_path_factory.mktemp("model")

    def job(rank: Rank) -> None:
        import torch
        import transformers

        torch.manual_seed(1)
        config = getattr(transformers, config_name)(**SHAPE, **extra, tie_word_embeddings=False)
        network = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
            network.lm_head.weight *= 4
        network.save_pretrained(folder)
        for file in Path(tiny_model).glob("tokenizer*"):
            shutil.copy(file, folder)

    run_ranks(job, Layout(), deadline_s=120)
    return str(folder)


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
