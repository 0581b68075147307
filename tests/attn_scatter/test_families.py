# SPDX-License-Identifier: Apache-2.0
"""Families of models on the CPU: tokens of scattered steps are those of vLLM's own layers and of transformers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.attn_scatter.test_engine import ENGINE_ARGS, NEVER, _check_phase, _phases
from tests.support.long_tables import long_table
from tests.support.reference import QWEN3_MOE, make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded"), long_table]

NUM_TOKENS = 8
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", {}),
    "Qwen2-MoE": (
        "Qwen2MoeConfig",
        {**QWEN3_MOE, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 1},
    ),
    "Qwen3-MoE": ("Qwen3MoeConfig", QWEN3_MOE),
    "Mixtral": ("MixtralConfig", {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64}),
    "OLMoE": ("OlmoeConfig", {"num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64}),
    "GLM-4-MoE": (
        "Glm4MoeConfig",
        {
            **_EXPERTS,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "ERNIE-4.5-MoE": (
        "Ernie4_5_MoeConfig",
        {
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_intermediate_size": 64,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
    ),
    "MiniMax-M2": (
        "MiniMaxM2Config",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
            "rotary_dim": 16,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_family(family: str, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With and without `full`, in steps of odd rows, whose shards are padded once and uneven once."""
    config_name, settings = FAMILIES[family]
    model = write_model(tmp_path_factory.mktemp("family"), tiny_model, config_name, **settings)
    prompts = make_prompts(tiny_model)[:8]
    expected = transformers_tokens(model, prompts, NUM_TOKENS)
    assert len(set(expected)) > 4  # not degenerate
    for full in (False, True):
        scatter = {"enabled": True, "full": full, "min_tokens": 1}
        case = EngineCase(model, Layout(tp=2), ascend_ext={"attn_scatter": scatter}, engine_args=ENGINE_ARGS)
        for plain, always in _phases(case, prompts, [(NEVER, False), (1, full)]):
            assert plain["tokens"] == expected
            _check_phase(always, expected)
