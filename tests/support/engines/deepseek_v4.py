# SPDX-License-Identifier: Apache-2.0
"""Writes a small DeepSeek-V4 with random weights, and loads it into transformers with the cache that it has on an
NPU.

It has a layer of each kind: with a window alone, with compressed keys that an indexer chooses from (4 tokens a
key), and with all compressed keys (128 a key); the first routes by token. Head sizes are the ones for which
vllm-ascend lays out the caches (models/layer/attention/layer.py:34).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.reference import float_network
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

NUM_CHOSEN = 64  # of the indexer: more than the compressed keys of any prompt here
WINDOW = 32
# how much of a prediction the last token makes, beside what attention and experts add: enough for drafts, which
# see the same token, to be accepted now and then
_SHARE_OF_TOKEN = 32
# a factor of one: vllm-ascend scales the layers without compressed keys, too (models/deepseek_v4.py:803), which
# DeepSeek's own model and transformers do not
_ROPE = {
    "type": "yarn",
    "rope_type": "yarn",
    "factor": 1,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 1024,
}
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 1024,
    "hidden_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "compress_ratios": [0, 4, 128, 4, 0],  # the last is of the layer of drafts
    "num_hash_layers": 1,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 64,
    "o_groups": 2,
    "o_lora_rank": 32,
    "index_n_heads": 4,
    "index_head_dim": 128,
    "index_topk": NUM_CHOSEN,
    "sliding_window": WINDOW,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "topk_method": "noaux_tc",
    "swiglu_limit": 10.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "rope_scaling": _ROPE,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float32",
}


def write_deepseek_v4(folder: Path, tokenizer_of: str) -> str:
    """Writes the checkpoint with DeepSeek's names of weights, and an MTP layer, into `folder`; returns it."""

    def job(rank: Rank) -> None:
        import torch
        from safetensors.torch import load_file, save_file
        from transformers import AutoConfig, AutoModelForCausalLM

        (folder / "config.json").write_text(json.dumps(CONFIG))
        torch.manual_seed(4)
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
                elif name.endswith(("sinks", "hc.base", "hc_base")):
                    parameter.normal_(0, 0.5)
            network.lm_head.weight *= 4
            network.model.embed_tokens.weight *= _SHARE_OF_TOKEN
            for name, buffer in network.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.normal_(0, 0.1)
                elif name.endswith("tid2eid"):
                    chosen = torch.rand(CONFIG["vocab_size"], CONFIG["n_routed_experts"]).topk(buffer.shape[1])
                    buffer.copy_(chosen.indices)
        network.save_pretrained(folder)
        saved = load_file(folder / "model.safetensors")
        weights = {_as_published(name): weight for name, weight in saved.items()}
        save_file(weights | _drafts(weights), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIG))
        for file in Path(tokenizer_of).glob("tokenizer*"):
            shutil.copy(file, folder)

    run_ranks(job, Layout(), deadline_s=120)
    return str(folder)


def cached_network(model: str, load: Callable[[str], Any] = float_network) -> Any:
    """Loads a checkpoint by `load` into transformers, for a process of its own, with keys in bfloat16, as an NPU
    caches them whatever the activations' type."""
    from transformers.models.deepseek_v4 import modeling_deepseek_v4

    plain = modeling_deepseek_v4.eager_attention_forward

    def attend(module: Any, query: Any, key: Any, value: Any, *arguments: Any, **named: Any) -> Any:
        cached = key.bfloat16().to(key.dtype)  # values are the keys
        return plain(module, query, cached, cached, *arguments, **named)

    modeling_deepseek_v4.eager_attention_forward = attend
    return load(model)


def token_load(model: str, sequences: list[list[int]]) -> list[int]:
    """Returns the rows of each expert in the layer that routes by tokens, by the checkpoint's table alone."""
    from safetensors import safe_open

    with safe_open(Path(model) / "model.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        experts_of_token = file.get_tensor("layers.0.ffn.gate.tid2eid").tolist()
    load = [0] * int(CONFIG["n_routed_experts"])
    for token in (token for sequence in sequences for token in sequence):
        for expert in experts_of_token[token]:
            load[expert] += 1
    return load


def _as_published(name: str) -> str:
    """Returns DeepSeek's name of a weight that transformers has saved under a name between its own and that."""
    name = name.removeprefix("model.").replace("embed_tokens.", "embed.").replace("hc_head.hc_", "hc_head_")
    return name.replace(".attn.norm.", ".attn.kv_norm.")


def _drafts(weights: dict[str, Any]) -> dict[str, Any]:
    """Returns the MTP layer: the first layer's weights, routed by a router, and projections of its own."""
    import torch

    drafts = {
        name.replace("layers.0.", "mtp.0."): weight.clone()
        for name, weight in weights.items()
        if name.startswith("layers.0.") and "tid2eid" not in name
    }
    hidden = weights["norm.weight"].shape[0]
    drafts["mtp.0.ffn.gate.bias"] = torch.zeros(CONFIG["n_routed_experts"])
    for name in ("enorm", "hnorm", "norm"):
        drafts[f"mtp.0.{name}.weight"] = torch.ones(hidden)
    for name, share in (("e_proj", 1.0), ("h_proj", 0.3)):
        drafts[f"mtp.0.{name}.weight"] = share * torch.eye(hidden)
    for name in ("fn", "base", "scale"):
        drafts[f"mtp.0.hc_head_{name}"] = weights[f"hc_head_{name}"].clone()
    drafts["mtp.0.emb.tok_emb.weight"] = weights["embed.weight"].clone()
    drafts["mtp.0.head.weight"] = weights["head.weight"].clone()
    return drafts
