# SPDX-License-Identifier: Apache-2.0
"""Writes the trained model in DeepSeek-V3's checkpoint layout: bf16 safetensors, config, generation config."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import DeepseekV3Config

from tiny_model.model import TinyDeepseek

# transformers' defaults for other tasks, and names that this file spells as DeepSeek's own does.
UNRELATED_CONFIG_KEYS = (
    "_name_or_path",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "num_mtp_layers",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
)


def round_to_bfloat16(model: TinyDeepseek) -> None:
    """Rounds every parameter in place to the values the checkpoint can hold; routing biases stay float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))


def _split_experts(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns one entry per expert for ``gate_up_proj [E, 2I, H]`` or ``down_proj [E, H, I]``."""
    prefix, kind = name.rsplit(".", 1)
    tensors: dict[str, torch.Tensor] = {}
    for expert, matrix in enumerate(weight):
        if kind == "down_proj":
            tensors[f"{prefix}.{expert}.down_proj.weight"] = matrix
            continue
        gate, up = matrix.chunk(2)
        tensors[f"{prefix}.{expert}.gate_proj.weight"] = gate
        tensors[f"{prefix}.{expert}.up_proj.weight"] = up
    return tensors


def checkpoint_tensors(model: TinyDeepseek) -> dict[str, torch.Tensor]:
    """Tensors by DeepSeek-V3 checkpoint name; the MTP layer is the one after the last main layer.

    Like DeepSeek's own, the MTP layer carries copies of the embedding and of the output head.
    """
    mtp_prefix = f"model.layers.{model.main.config.num_hidden_layers}"
    named = dict(model.main.state_dict())
    for name, tensor in model.mtp.state_dict().items():
        named[f"{mtp_prefix}.{name.removeprefix('mtp_block.')}"] = tensor
    named[f"{mtp_prefix}.embed_tokens.weight"] = named["model.embed_tokens.weight"]
    named[f"{mtp_prefix}.shared_head.head.weight"] = named["lm_head.weight"]
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in named.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors.update(_split_experts(name, tensor))
        else:
            tensors[name] = tensor
    for name, tensor in tensors.items():
        dtype = torch.float32 if "e_score_correction_bias" in name else torch.bfloat16
        tensors[name] = tensor.to(dtype).clone()
    return dict(sorted(tensors.items()))


def checkpoint_config(config: DeepseekV3Config) -> dict[str, object]:
    """Returns what transformers writes plus the fields of DeepSeek's own file that other engines read."""
    values: dict[str, object] = config.to_dict()
    for key in UNRELATED_CONFIG_KEYS:
        values.pop(key, None)
    rope = config.rope_parameters
    values |= {
        "architectures": ["DeepseekV3ForCausalLM"],
        "torch_dtype": "bfloat16",
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "ep_size": 1,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 1,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
    }
    return dict(sorted(values.items()))


def save_checkpoint(model: TinyDeepseek, out_dir: Path) -> None:
    """Writes ``model.safetensors``, ``config.json`` and ``generation_config.json``."""
    out_dir.mkdir(parents=True, exist_ok=True)
    config = model.main.config
    save_file(checkpoint_tensors(model), str(out_dir / "model.safetensors"), metadata={"format": "pt"})
    generation = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "do_sample": False,
    }
    (out_dir / "model.safetensors").chmod(0o644)
    for name, values in (("config.json", checkpoint_config(config)), ("generation_config.json", generation)):
        (out_dir / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
