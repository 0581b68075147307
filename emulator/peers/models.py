# SPDX-License-Identifier: Apache-2.0
"""Writes the configurations of models that tests ask a hub for by name: what describes their attention, as
published; no weights, no tokenizer. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_REVISION = "0" * 40
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "torch_dtype": "bfloat16",
}

CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-8B": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "torch_dtype": "bfloat16",
    },
    "deepseek-ai/DeepSeek-V2": _LATENT
    | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 160,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 8,
        "topk_group": 3,
        "topk_method": "group_limited_greedy",
        "num_hidden_layers": 60,
        "vocab_size": 102400,
        "max_position_embeddings": 163840,
    },
    "deepseek-ai/DeepSeek-V3.2-Exp": _LATENT
    | {
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "num_hidden_layers": 61,
        "num_nextn_predict_layers": 1,
        "index_head_dim": 128,
        "index_n_heads": 64,
        "index_topk": 2048,
        "vocab_size": 129280,
        "max_position_embeddings": 163840,
    },
}


def write_hub_cache(folder: Path) -> None:
    """Writes all of them to ``folder`` as Hugging Face's cache (HF_HUB_CACHE) holds what it has fetched."""
    for name, config in CONFIGS.items():
        place = folder / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(_REVISION, encoding="utf-8")
        snapshot = place / "snapshots" / _REVISION
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
