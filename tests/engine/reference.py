# SPDX-License-Identifier: Apache-2.0
"""Prompts and their greedy continuations by transformers in float32: what every engine case is held to."""

from __future__ import annotations

import heapq
import inspect
import json
import textwrap
from typing import Any

from vllm_ascend_ext.integration.ranks import Layout, Rank, run_ranks

NUM_PROMPTS = 32
NUM_TOKENS = 64
# token counts of the prompts; prompts of one length go through transformers as one batch, without padding
_LENGTHS = (1, 17, 40, 90)


def make_prompts(model: str) -> list[list[int]]:
    """32 prompts of 1, 17, 40 and 90 tokens, cut from the standard library's source."""
    from transformers import AutoTokenizer

    text = "".join(inspect.getsource(module) for module in (heapq, textwrap, json))
    token_ids = AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False)["input_ids"]
    stride = len(token_ids) // NUM_PROMPTS
    return [
        token_ids[i * stride : i * stride + _LENGTHS[i % len(_LENGTHS)]] for i in range(NUM_PROMPTS)
    ]


def transformers_tokens(model: str, prompts: list[list[int]], num_tokens: int) -> list[tuple[int, ...]]:
    """Greedy continuations by transformers, computed in a process of their own."""

    def job(rank: Rank) -> list[tuple[int, ...]]:
        import torch
        from transformers import AutoModelForCausalLM

        network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
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


def transformers_load(model: str, sequences: list[list[int]]) -> list[list[int]]:
    """Routed tokens per MoE layer and expert, [L][E], when transformers runs each sequence once: a count that
    shares no code with ours."""

    def job(rank: Rank) -> list[list[int]]:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

        network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        routers = [m for m in network.modules() if isinstance(m, DeepseekV3TopkRouter)]
        load = torch.zeros(len(routers), network.config.n_routed_experts, dtype=torch.int64)

        def count(layer: int) -> Any:
            def hook(module: Any, inputs: Any, outputs: Any) -> None:
                load[layer] += torch.bincount(outputs[2].flatten(), minlength=load.shape[1])

            return hook

        for layer, router in enumerate(routers):
            router.register_forward_hook(count(layer))
        with torch.inference_mode():
            for sequence in sequences:
                network(torch.tensor([sequence]))
        return load.tolist()

    return run_ranks(job, Layout(), deadline_s=300)[0]
