# SPDX-License-Identifier: Apache-2.0
"""Writes a small GLM-4-MoE with random weights: attention with few heads, shared experts and an MTP layer."""

from __future__ import annotations

from pathlib import Path

from tests.support.reference import write_model
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

_SIZES = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_mtp_layers": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}


def write_glm4_moe(folder: Path, tokenizer_of: str) -> str:
    """Writes a dense layer, two of eight experts, two a token, and one of drafts; returns the folder."""
    model = write_model(folder, tokenizer_of, "Glm4MoeConfig", **_SIZES)
    num_layers = _SIZES["num_hidden_layers"]

    def job(rank: Rank) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        torch.manual_seed(3)
        weights = load_file(folder / "model.safetensors")
        last, drafts = f"model.layers.{num_layers - 1}.", f"model.layers.{num_layers}."
        weights |= {
            name.replace(last, drafts): weight.clone() for name, weight in weights.items() if name.startswith(last)
        }
        hidden = weights["model.norm.weight"].shape[0]
        weights |= {
            f"{drafts}{norm}.weight": torch.ones(hidden) for norm in ("enorm", "hnorm", "shared_head.norm")
        }
        weights[f"{drafts}eh_proj.weight"] = torch.randn(hidden, 2 * hidden) * (2 * hidden) ** -0.5
        weights[f"{drafts}shared_head.head.weight"] = weights["lm_head.weight"].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    run_ranks(job, Layout(), deadline_s=120)
    return model
