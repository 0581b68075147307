# SPDX-License-Identifier: Apache-2.0
"""Lists families of models with small sizes: the configuration of transformers, and what it is given."""

from __future__ import annotations

from typing import Any

from tests.support.reference import QWEN3_MOE

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
