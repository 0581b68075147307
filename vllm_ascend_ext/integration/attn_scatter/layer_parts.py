# SPDX-License-Identifier: Apache-2.0
"""Calls single parts of vLLM's layers: an attention, a norm, a router, and the embedding up to its sum."""

from __future__ import annotations

from typing import Any

import torch

from vllm_ascend_ext.attn_scatter.layers import Norm


def attend(attention: Any, takes_scaling: bool, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Returns what an attention of vLLM makes of the rows, this rank's addend."""
    scaling = {"llama_4_scaling": None} if takes_scaling else {}
    return attention(positions=positions, hidden_states=x, **scaling)


def takes_scaling(attention: Any) -> bool:
    """Returns whether an attention is called with a scaling of its queries, as DeepSeek's are."""
    from vllm.model_executor.models.deepseek_v2 import DeepseekV2Attention, DeepseekV2MLAAttention

    return isinstance(attention, DeepseekV2Attention | DeepseekV2MLAAttention)


def route(gate: Any, x: torch.Tensor) -> torch.Tensor:
    """Returns the logits of a router, which some models keep in float32 and give rows of that type, and of which
    some return a pair."""
    is_router = hasattr(gate, "out_dtype")  # vLLM's own, which takes rows of any type
    logits = gate(x if is_router else x.to(gate.weight.dtype))
    return logits[0] if isinstance(logits, tuple) else logits


def norm(module: Any) -> Norm:
    """Returns what the core knows of a norm of vLLM."""
    return Norm(module.weight.data, module.variance_epsilon, module)


def own_vocabulary(embedding: Any, input_ids: torch.Tensor | None) -> torch.Tensor:
    """Returns the embeddings of the ids in this rank's part of the vocabulary, and zero rows for all other ids.

    This is vLLM's `VocabParallelEmbedding.forward` up to its all-reduce.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import get_masked_input_and_mask

    shard = embedding.shard_indices
    ids, elsewhere = get_masked_input_and_mask(
        input_ids,
        shard.org_vocab_start_index,
        shard.org_vocab_end_index,
        shard.num_org_vocab_padding,
        shard.added_vocab_start_index,
        shard.added_vocab_end_index,
    )
    rows = embedding.quant_method.embedding(embedding, ids.long())
    return rows.masked_fill_(elsewhere.unsqueeze(-1), 0)
