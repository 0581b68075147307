# SPDX-License-Identifier: Apache-2.0
"""Defines the operators of torch.ops._C_ascend that sparse attention calls, by torch_npu's own.

Signatures: vllm-ascend csrc/torch_binding.cpp (Apache-2.0). torch_npu's have the same arguments, limits and, for
torch.compile, shapes. But vllm-ascend's attention also tells the sums of its softmax for a paged cache, where
torch_npu's does so in training only: `softmax_sums`, of which decode context parallelism makes one attention out
of its ranks' parts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor

from .operators import define

_EVERY_TOKEN = 2**63 - 1


def sparse_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sparse_indices: Tensor,
    scale_value: float,
    *,
    attention_mode: int = 2,
    return_softmax_lse: bool = False,
    **named: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives torch_npu's operator the mode by name: its default is another one than vllm-ascend's, and torch does
    not pass on what is a schema's default."""
    if not key.is_contiguous():  # of gathered blocks; value is the same memory
        key = value = key.contiguous()
    if named.get("key_rope") is not None:
        named["key_rope"] = named["key_rope"].contiguous()
    result: tuple[Tensor, Tensor, Tensor] = torch_npu.npu_sparse_flash_attention(
        query, key, value, sparse_indices, scale_value, attention_mode=attention_mode, **named
    )
    if not return_softmax_lse:
        return result
    return result[0], *softmax_sums(query, key, sparse_indices, scale_value, **named)


def softmax_sums(
    query: Tensor,
    key: Tensor,
    sparse_indices: Tensor,
    scale_value: float,
    *,
    query_rope: Tensor,
    key_rope: Tensor,
    block_table: Tensor,
    actual_seq_lengths_query: Tensor,
    sparse_mode: int = 3,
    sparse_block_size: int = 1,
    **named: Any,
) -> tuple[Tensor, Tensor]:
    """Returns the largest score of a token and head, and the sum of exp(score - largest), float32 ``[1, T, N]``.

    A token that chose no key has -inf and 0. Queries are packed, keys paged, and each chosen one is seen.

    Raises:
        NotImplementedError: another layout, blocks of keys, or a causal mask.
    """
    if named.get("layout_query") != "TND" or named.get("layout_kv") != "PA_BSND":
        raise NotImplementedError("not emulated: sums of a softmax whose queries are not packed or keys not paged")
    if sparse_mode != 0 or sparse_block_size != 1:
        raise NotImplementedError("not emulated: sums of a softmax with sparse_mode 3 or blocks of keys")
    chosen_TK = sparse_indices[:, 0]
    tokens_T = torch.arange(query.shape[0], device=query.device, dtype=torch.int32)
    ends_B = actual_seq_lengths_query.to(torch.int32)
    request_T = (tokens_T[:, None] >= ends_B).sum(-1).clamp(max=ends_B.shape[0] - 1)
    is_there_TK = (chosen_TK >= 0) & (tokens_T < ends_B[-1])[:, None]
    places_TK = chosen_TK.clamp(min=0).long()
    block_size = key.shape[1]
    blocks_TK = block_table.index_select(0, request_T).long().gather(1, places_TK // block_size)
    rows = (blocks_TK * block_size + places_TK % block_size).flatten()
    scores_TNK = torch.zeros((), device=query.device)
    for of_query, of_key in ((query, key), (query_rope, key_rope)):
        keys = of_key.flatten(0, 2).index_select(0, rows)
        keys = keys.unflatten(0, places_TK.shape)  # type: ignore[no-untyped-call]
        scores_TNK = scores_TNK + of_query.float() @ keys.float().transpose(1, 2)
    scores_TNK = (scores_TNK * scale_value).masked_fill(~is_there_TK[:, None], float("-inf"))
    largest_TN = scores_TNK.amax(-1)
    weights_TNK = (scores_TNK - largest_TN[..., None]).exp().masked_fill(~is_there_TK[:, None], 0)
    return largest_TN[None], weights_TNK.sum(-1)[None]


define(
    "_C_ascend",
    "npu_lightning_indexer(Tensor query, Tensor key, Tensor weights, *, Tensor? actual_seq_lengths_query=None, "
    "Tensor? actual_seq_lengths_key=None, Tensor? block_table=None, str layout_query='BSND', "
    f"str layout_key='BSND', int sparse_count=2048, int sparse_mode=3, int pre_tokens={_EVERY_TOKEN}, "
    f"int next_tokens={_EVERY_TOKEN}, bool return_value=False) -> (Tensor sparse_indices, Tensor sparse_values)",
    torch_npu.npu_lightning_indexer,
    torch_npu.npu_lightning_indexer,
)
define(
    "_C_ascend",
    "npu_sparse_flash_attention(Tensor query, Tensor key, Tensor value, Tensor sparse_indices, float scale_value, "
    "*, Tensor? block_table=None, Tensor? actual_seq_lengths_query=None, Tensor? actual_seq_lengths_kv=None, "
    "Tensor? query_rope=None, Tensor? key_rope=None, int sparse_block_size=1, str layout_query='BSND', "
    f"str layout_kv='BSND', int sparse_mode=3, int pre_tokens={_EVERY_TOKEN}, int next_tokens={_EVERY_TOKEN}, "
    "int attention_mode=2, bool return_softmax_lse=False) "
    "-> (Tensor attention_out, Tensor softmax_max, Tensor softmax_sum)",
    sparse_flash_attention,
    sparse_flash_attention,
)
