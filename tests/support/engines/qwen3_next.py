# SPDX-License-Identifier: Apache-2.0
"""A small Qwen3-Next: a gated delta net, full attention, experts with a shared one, a layer of drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.reference import write_model
from vllm_ascend_ext.tools.forked_ranks import Layout, run_ranks

QWEN3_NEXT = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    # vllm-ascend takes the drafts' layer to have the blocks of full attention: as many layers of each kind
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    # vLLM has the state of a block as wide as the keys of one: whole blocks of 128 tokens, at TP 1 and 2
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
_FULL = "model.layers.2."  # the layer of full attention
_TOKENS = 28.0  # of embeddings, beside those that were drawn
_KEPT = (0.02, 0.5)  # what a state loses with a token, as a logarithm: long memories and short ones


def write_qwen3_next(folder: Path, tokenizer_of: str) -> str:
    """Writes a small Qwen3-Next with random weights and returns its folder.

    transformers, whose model has no layer of drafts, reads it as well.
    """
    write_model(folder, tokenizer_of, "Qwen3NextConfig", **QWEN3_NEXT)
    run_ranks(lambda rank: _finish(folder), Layout(), deadline_s=120)
    return str(folder)


def _finish(folder: Path) -> None:
    """Gives states memories of several lengths, and adds a layer of drafts: one of full attention.

    Tokens weigh so much beside what layers add to them that about half of the next tokens follow from a token
    alone. Those are what the layer of drafts, which reads little but the token, says.
    """
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(2)
    file = folder / "model.safetensors"
    weights: dict[str, Any] = load_file(file)
    weights["model.embed_tokens.weight"] *= _TOKENS
    drafts = {}
    for name, weight in weights.items():
        if name.endswith("A_log"):
            weight.copy_(torch.linspace(*_KEPT, weight.numel()).log())
        elif name.startswith(_FULL):
            is_added = name.endswith(("o_proj.weight", "down_proj.weight"))
            size = weight.shape[-1] ** -0.5 * (0.1 if is_added else 1)
            copy = torch.randn_like(weight) * size if weight.dim() > 1 else weight.clone()
            drafts[f"mtp.layers.0.{name.removeprefix(_FULL)}"] = copy
    norm = weights["model.norm.weight"]
    drafts["mtp.fc.weight"] = torch.cat([torch.eye(norm.numel()), torch.zeros(2 * (norm.numel(),))], dim=1)
    for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding"):
        drafts[f"mtp.{name}.weight"] = torch.zeros_like(norm)
    save_file(weights | drafts, file, metadata={"format": "pt"})
