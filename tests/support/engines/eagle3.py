# SPDX-License-Identifier: Apache-2.0
"""Writes a small draft model of EAGLE-3 for one of the small models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

_AUXILIARY = (1, 2)  # hidden states of the target that the drafter reads: after these layers


def write_eagle3(folder: Path, target: str) -> str:
    """Writes a drafter for the model in the folder `target` and returns its own folder.

    Its weights are random, so that nearly all its drafts are rejected, and it has the target's output layer.
    """
    config = json.loads((Path(target) / "config.json").read_text())
    hidden, sizes = config["hidden_size"], _sizes(config)

    norms = ("midlayer.hidden_norm", "midlayer.input_layernorm", "midlayer.post_attention_layernorm", "norm")

    def job(rank: Rank) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        torch.manual_seed(2)
        weights = {f"{name}.weight": torch.randn(size) * size[1] ** -0.5 for name, size in sizes.items()}
        weights |= {f"{name}.weight": torch.ones(hidden) for name in norms}
        weights["lm_head.weight"] = load_file(Path(target) / "model.safetensors")["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    run_ranks(job, Layout(), deadline_s=120)
    (folder / "config.json").write_text(json.dumps(_drafter(config)))
    return str(folder)


def _sizes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Returns the sizes of the projections' weights."""
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    return {
        "fc": (hidden, len(_AUXILIARY) * hidden),
        "midlayer.self_attn.q_proj": (heads * head_dim, 2 * hidden),
        "midlayer.self_attn.k_proj": (kv_heads * head_dim, 2 * hidden),
        "midlayer.self_attn.v_proj": (kv_heads * head_dim, 2 * hidden),
        "midlayer.self_attn.o_proj": (hidden, heads * head_dim),
        "midlayer.mlp.gate_proj": (2 * hidden, hidden),
        "midlayer.mlp.up_proj": (2 * hidden, hidden),
        "midlayer.mlp.down_proj": (hidden, 2 * hidden),
    }


def _drafter(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the drafter's configuration, from its target's."""
    alike = ("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    return {name: config[name] for name in (*alike, "vocab_size")} | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "intermediate_size": 2 * config["hidden_size"],
        "num_hidden_layers": 1,
        "draft_vocab_size": config["vocab_size"],
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(_AUXILIARY), "use_aux_hidden_state": True},
        "num_aux_hidden_states": len(_AUXILIARY),
        "dtype": "float32",
    }
