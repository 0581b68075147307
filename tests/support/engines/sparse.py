# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints with sparse attention: the trained DeepSeek-V3 with a lightning indexer in each layer.

The trained model has the sizes of latent attention that the kernels are documented for; the indexer has theirs,
but for its heads, and random weights. Transformers computes the reference from the same checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

ARCHITECTURES = {"DeepSeek-V3.2": "DeepseekV32ForCausalLM", "GLM-5": "GlmMoeDsaForCausalLM"}
_MODEL_TYPES = {"DeepSeek-V3.2": "deepseek_v32", "GLM-5": "glm_moe_dsa"}
# vllm-ascend asks its kernels for this many keys, whatever the configuration says (device/device_op.py:640)
NUM_CHOSEN = 2048
_HEADS, _HEAD_SIZE, _MAX_POSITIONS = 2, 128, 4096


def allow_float32() -> None:
    """Has vLLM take the name of a float32 cache, in which tokens can be compared, in this process and its forks.

    vllm-ascend names the cache of a model with an indexer by the model's dtype (platform.py:505), and vLLM refuses
    that name (v1/attention/selector.py:70), which for other models is "auto".
    """
    from typing import Literal, get_args

    from vllm.v1.attention import selector

    names = get_args(selector.CacheDType)
    if "float32" not in names:
        selector.CacheDType = Literal[(*names, "float32")]  # type: ignore[misc, assignment]


def write_sparse(model: str, folder: Path, family: str) -> str:
    """Writes the trained DeepSeek-V3 `model` as a model of `family` into `folder` and returns the folder.

    A query of the indexer sees up to `NUM_CHOSEN` keys, so that prompts up to that length give DeepSeek-V3's
    tokens, and longer ones others.
    """

    def job(rank: Rank) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        config = json.loads((Path(model) / "config.json").read_text())
        weights = load_file(Path(model) / "model.safetensors")
        generator = torch.Generator().manual_seed(2)

        def drawn(*shape: int) -> Any:
            return torch.randn(shape, generator=generator).mul(shape[-1] ** -0.5).to(torch.bfloat16)

        hidden, latent = config["hidden_size"], config["q_lora_rank"]
        for layer in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
            indexer = f"model.layers.{layer}.self_attn.indexer"
            weights[f"{indexer}.wq_b.weight"] = drawn(_HEADS * _HEAD_SIZE, latent)
            weights[f"{indexer}.wk.weight"] = drawn(_HEAD_SIZE, hidden)
            weights[f"{indexer}.weights_proj.weight"] = drawn(_HEADS, hidden)
            weights[f"{indexer}.k_norm.weight"] = 1 + drawn(_HEAD_SIZE)
            weights[f"{indexer}.k_norm.bias"] = drawn(_HEAD_SIZE)
        config |= {
            "architectures": [ARCHITECTURES[family]],
            "model_type": _MODEL_TYPES[family],
            "index_n_heads": _HEADS,
            "index_head_dim": _HEAD_SIZE,
            "index_topk": NUM_CHOSEN,
            "max_position_embeddings": _MAX_POSITIONS,
        }
        folder.mkdir(exist_ok=True)
        for file in Path(model).glob("*.json"):
            shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    run_ranks(job, Layout(), deadline_s=120)
    return str(folder)
