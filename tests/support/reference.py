# SPDX-License-Identifier: Apache-2.0
"""Prompts and their greedy continuations by transformers in float32: what every engine case is held to."""

from __future__ import annotations

import heapq
import inspect
import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

NUM_PROMPTS = 32
NUM_TOKENS = 64
# token counts of the prompts; prompts of one length go through transformers as one batch, without padding
_LENGTHS = (1, 17, 40, 90)

# of the models with random weights
_SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


def make_prompts(model: str) -> list[list[int]]:
    """Cuts 32 prompts of 1, 17, 40 and 90 tokens from the standard library's source."""
    from transformers import AutoTokenizer

    text = "".join(inspect.getsource(module) for module in (heapq, textwrap, json))
    token_ids = AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False)["input_ids"]
    stride = len(token_ids) // NUM_PROMPTS
    return [token_ids[i * stride : i * stride + _LENGTHS[i % len(_LENGTHS)]] for i in range(NUM_PROMPTS)]


def float_network(model: str) -> Any:
    """Loads a checkpoint into transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def transformers_tokens(
    model: str, prompts: list[list[int]], num_tokens: int, load: Callable[[str], Any] = float_network
) -> list[tuple[int, ...]]:
    """Returns greedy continuations by transformers, computed in a process of their own, in which `load` makes the
    network of the model's folder."""

    def job(rank: Rank) -> list[tuple[int, ...]]:
        import torch

        network = load(model)
        tokens: list[tuple[int, ...]] = [()] * len(prompts)
        for length in sorted({len(prompt) for prompt in prompts}):
            members = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
            ids = torch.tensor([prompts[i] for i in members])
            with torch.inference_mode():
                out = network.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=num_tokens,
                    min_new_tokens=num_tokens,
                    eos_token_id=-1,
                    pad_token_id=0,
                )
            for row, i in enumerate(members):
                tokens[i] = tuple(out[row, length:].tolist())
        return tokens

    return run_ranks(job, Layout(), deadline_s=300)[0]


def transformers_load(
    model: str,
    sequences: list[list[int]],
    load_network: Callable[[str], Any] = float_network,
    since: list[int] | None = None,
) -> list[list[int]]:
    """Returns routed tokens per MoE layer and expert, [L][E], when transformers runs each sequence once: a count
    that shares no code with ours.

    load_network: makes the network of the model's folder. since: of each sequence, its first token that counts.
    """

    def job(rank: Rank) -> list[list[int]]:
        import torch

        network = load_network(model)
        # DeepseekV3TopkRouter, MixtralTopKRouter, ...: all return (logits, weights, ids)
        routers = [m for m in network.modules() if type(m).__name__.lower().endswith("topkrouter")]
        load = torch.zeros(len(routers), routers[0].weight.shape[0], dtype=torch.int64)
        first = 0

        def count(layer: int) -> Any:
            def hook(module: Any, inputs: Any, outputs: Any) -> None:
                load[layer] += torch.bincount(outputs[2][first:].flatten(), minlength=load.shape[1])

            return hook

        for layer, router in enumerate(routers):
            router.register_forward_hook(count(layer))
        with torch.inference_mode():
            for sequence, begin in zip(sequences, since or [0] * len(sequences), strict=True):
                first = begin
                network(torch.tensor([sequence]))
        return load.tolist()

    return run_ranks(job, Layout(), deadline_s=300)[0]


QWEN3_MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}


def write_qwen3_moe(folder: Path, tokenizer_of: str) -> str:
    """Writes a small Qwen3-MoE of eight experts, two a token, and returns its folder."""
    return write_model(folder, tokenizer_of, "Qwen3MoeConfig", **QWEN3_MOE)


def write_model(folder: Path, tokenizer_of: str, config_name: str, **settings: Any) -> str:
    """Writes a small checkpoint of another architecture and returns its folder.

    The weights are random but of realistic scale, N(0, 1 / fan_in), so that outputs are not degenerate.
    """

    def job(rank: Rank) -> None:
        import torch
        import transformers

        torch.manual_seed(1)
        config = getattr(transformers, config_name)(**(_SHAPE | settings), tie_word_embeddings=False)
        network = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
            network.lm_head.weight *= 4
        network.save_pretrained(folder)
        for file in Path(tokenizer_of).glob("tokenizer*"):
            shutil.copy(file, folder)

    run_ranks(job, Layout(), deadline_s=120)
    return str(folder)
