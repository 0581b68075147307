# SPDX-License-Identifier: Apache-2.0
"""Implements DeepSeek-V4's attention to paged keys that are their own values: those of a window and compressed
ones, and the indexer that chooses among the latter.

A compressed key is seen from the last token on that it is made of. What a kernel prepares on the way (`metadata`)
is empty here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..operators import define
from .packed import places, positions, read

_METADATA_SIZE = 1024  # vllm-ascend keeps it in buffers of this many integers
_NONE, _EVERY_TOKEN = -1, 2**63 - 1


def sparse_attn_sharedkv(
    q: Tensor,  # [T, N, D]
    *,
    ori_kv: Tensor,  # [blocks, block size, 1, D]
    ori_block_table: Tensor,
    cu_seqlens_q: Tensor,  # [B + 1]
    seqused_kv: Tensor,  # [B]
    sinks: Tensor,  # [N]
    softmax_scale: float,
    cmp_ratio: int,
    cmp_kv: Tensor | None = None,
    cmp_sparse_indices: Tensor | None = None,  # [T, 1, K], below zero for none
    cmp_block_table: Tensor | None = None,
    ori_win_left: int = 128,
    layout_q: str = "BSND",
    layout_kv: str = "PA_ND",
    **named: Any,
) -> tuple[Tensor, Tensor]:
    """Returns the attention [T, N, D] of packed queries to the last `ori_win_left` + 1 keys up to their own and to
    the compressed keys that are chosen, or all, with a sink a head; and no sums.

    Raises:
        NotImplementedError: another layout, another mask, or sums of the softmax.
    """
    has_other_mask = (named.get("ori_mask_mode", 4), named.get("cmp_mask_mode", 3)) != (4, 3)
    if (layout_q, layout_kv) != ("TND", "PA_ND") or has_other_mask or named.get("ori_win_right", 0) != 0:
        raise NotImplementedError("not emulated: attention whose queries are not packed, keys not paged, or mask")
    if named.get("return_softmax_lse") or named.get("ori_sparse_indices") is not None:
        raise NotImplementedError("not emulated: sums of the softmax, or chosen keys of the window")
    request_T, position_T = _positions(q.shape[0], cu_seqlens_q, seqused_kv)
    at_TW = position_T[:, None] - torch.arange(ori_win_left + 1, device=q.device)
    seen = [at_TW >= 0]
    keys = [_read(ori_kv, ori_block_table, request_T, at_TW, seen[0])]
    if cmp_kv is not None and cmp_block_table is not None:
        if cmp_sparse_indices is None:
            at_TK = _all_keys(cmp_block_table, cmp_kv)[None].expand(q.shape[0], -1)
        else:
            at_TK = cmp_sparse_indices[:, 0].long()
        seen.append((at_TK >= 0) & (at_TK < ((position_T + 1) // cmp_ratio)[:, None]))
        keys.append(_read(cmp_kv, cmp_block_table, request_T, at_TK, seen[1]))
    key_TKD, seen_TK = torch.cat(keys, 1), torch.cat(seen, 1)
    scores_TNK = (q.float() @ key_TKD.transpose(1, 2)) * softmax_scale
    scores_TNK = scores_TNK.masked_fill(~seen_TK[:, None], float("-inf"))
    sinks_TN1 = sinks.float()[None, :, None].expand(q.shape[0], -1, 1)
    shares_TNK = torch.cat([scores_TNK, sinks_TN1], -1).softmax(-1)[..., :-1]
    return (shares_TNK @ key_TKD).to(q.dtype), q.new_empty((0,), dtype=torch.float32)


def quant_lightning_indexer(
    query: Tensor,  # int8 [T, N, D]
    key: Tensor,  # int8 [blocks, block size, 1, D]
    weights: Tensor,  # [T, N]
    query_dequant_scale: Tensor,  # [T, N]
    key_dequant_scale: Tensor,  # [blocks, block size, 1]
    query_quant_mode: int = 0,
    key_quant_mode: int = 0,
    actual_seq_lengths_query: Tensor | None = None,  # last token of each request, + 1, [B]
    actual_seq_lengths_key: Tensor | None = None,  # of keys before they are compressed, [B]
    block_table: Tensor | None = None,
    metadata: Tensor | None = None,
    layout_query: str = "BSND",
    layout_key: str = "BSND",
    sparse_count: int = 2048,
    sparse_mode: int = 3,
    pre_tokens: int = _EVERY_TOKEN,
    next_tokens: int = _EVERY_TOKEN,
    cmp_ratio: int = 1,
    return_value: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the numbers [T, 1, sparse_count] of the compressed keys with the largest sums over the heads of
    weight * relu(query * key), below zero where there are no more; and no sums.

    Raises:
        NotImplementedError: another layout or mask, other scales, or sums.
    """
    if (layout_query, layout_key, sparse_mode) != ("TND", "PA_BSND", 3) or return_value:
        raise NotImplementedError("not emulated: an indexer of other layouts, without a causal mask, or with sums")
    if (query_quant_mode, key_quant_mode) != (0, 0):
        raise NotImplementedError("not emulated: an indexer with other scales than one a row")
    assert block_table is not None and actual_seq_lengths_query is not None and actual_seq_lengths_key is not None
    begins = torch.cat([torch.zeros_like(actual_seq_lengths_query[:1]), actual_seq_lengths_query])
    request_T, position_T = _positions(query.shape[0], begins, actual_seq_lengths_key)
    at_TK = _all_keys(block_table, key)[None].expand(query.shape[0], -1)
    places_TK = places(block_table, request_T[:, None].expand_as(at_TK), at_TK, key.shape[1])
    keys_TKD = read(key, places_TK) * read(key_dequant_scale, places_TK)
    sums_TNK = (query.float() * query_dequant_scale.float().reshape(*query.shape[:2], 1)) @ keys_TKD.transpose(
        1, 2
    )
    sums_TK = (sums_TNK.relu() * weights.float()[..., None]).sum(1)
    sums_TK = sums_TK.masked_fill(at_TK >= ((position_T + 1) // cmp_ratio)[:, None], float("-inf"))
    num_chosen = min(sparse_count, sums_TK.shape[1])
    best = sums_TK.topk(num_chosen, -1)
    chosen = torch.where(best.values > float("-inf"), best.indices, _NONE)
    more = chosen.new_full((chosen.shape[0], sparse_count - num_chosen), _NONE)
    return torch.cat([chosen, more], -1)[:, None].int(), query.new_empty((0,), dtype=torch.float32)


def _positions(num_tokens: int, begins: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Returns of each token its request and position; the last tokens of a request are those that are passed."""
    request_T, position_T = positions(num_tokens, begins, lengths_B.long() - begins.long().diff())
    return request_T, position_T.clamp(min=0)


def _all_keys(block_table: Tensor, cache: Tensor) -> Tensor:
    """Returns the numbers of all keys that a row of the table has room for."""
    return torch.arange(block_table.shape[1] * cache.shape[1], device=cache.device)


def _read(cache: Tensor, block_table: Tensor, request_T: Tensor, at_TK: Tensor, seen_TK: Tensor) -> Tensor:
    """Returns keys [T, K, D], zero where they are not seen."""
    requests = request_T[:, None].expand_as(at_TK)
    places_TK = places(block_table, requests, torch.where(seen_TK, at_TK, 0), cache.shape[1])
    return read(cache, places_TK).masked_fill(~seen_TK[..., None], 0)


def no_metadata(*_: object, device: str = "npu", **__: object) -> Tensor:
    """Returns zeros in the place of what the kernels prepare for themselves."""
    return torch.zeros(_METADATA_SIZE, dtype=torch.int32, device=device)


def _attention_shapes(q: Tensor, **_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty((0,), dtype=torch.float32)


define(
    "_C_ascend",
    "npu_sparse_attn_sharedkv(Tensor q, *, Tensor? ori_kv=None, Tensor? cmp_kv=None, "
    "Tensor? ori_sparse_indices=None, Tensor? cmp_sparse_indices=None, Tensor? ori_block_table=None, "
    "Tensor? cmp_block_table=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_ori_kv=None, "
    "Tensor? cu_seqlens_cmp_kv=None, Tensor? seqused_q=None, Tensor? seqused_kv=None, Tensor? sinks=None, "
    "Tensor? metadata=None, float softmax_scale=0, int cmp_ratio=0, int ori_mask_mode=4, int cmp_mask_mode=3, "
    "int ori_win_left=128, int ori_win_right=0, str layout_q='BSND', str layout_kv='PA_ND', "
    "bool return_softmax_lse=False) -> (Tensor out, Tensor softmax_lse)",
    sparse_attn_sharedkv,
    _attention_shapes,
)
define(
    "_C_ascend",
    "npu_vllm_quant_lightning_indexer(Tensor query, Tensor key, Tensor weights, Tensor query_dequant_scale, "
    "Tensor key_dequant_scale, int query_quant_mode=0, int key_quant_mode=0, "
    "Tensor? actual_seq_lengths_query=None, Tensor? actual_seq_lengths_key=None, Tensor? block_table=None, "
    "Tensor? metadata=None, str layout_query='BSND', str layout_key='BSND', int sparse_count=2048, "
    f"int sparse_mode=3, int pre_tokens={_EVERY_TOKEN}, int next_tokens={_EVERY_TOKEN}, int cmp_ratio=1, "
    "bool return_value=False) -> (Tensor sparse_indices, Tensor sparse_values)",
    quant_lightning_indexer,
)
define(
    "_C_ascend",
    "npu_sparse_attn_sharedkv_metadata(int num_heads_q, int num_heads_kv, int head_dim, "
    "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_ori_kv=None, Tensor? cu_seqlens_cmp_kv=None, "
    "Tensor? seqused_q=None, Tensor? seqused_kv=None, int batch_size=0, int max_seqlen_q=0, int max_seqlen_kv=0, "
    "int ori_topk=0, int cmp_topk=0, int cmp_ratio=4, int ori_mask_mode=4, int cmp_mask_mode=3, "
    "int ori_win_left=128, int ori_win_right=0, str layout_q='BSND', str layout_kv='PA_ND', "
    "bool has_ori_kv=True, bool has_cmp_kv=True, str device='npu') -> (Tensor metadata)",
    no_metadata,
)
define(
    "_C_ascend",
    "npu_vllm_quant_lightning_indexer_metadata(int num_heads_q, int num_heads_k, int head_dim, "
    "int query_quant_mode, int key_quant_mode, Tensor? actual_seq_lengths_query=None, "
    "Tensor? actual_seq_lengths_key=None, int batch_size=0, int max_seqlen_q=0, int max_seqlen_k=0, "
    "str layout_query='BSND', str layout_key='BSND', int sparse_count=2048, int sparse_mode=3, "
    f"int pre_tokens={_EVERY_TOKEN}, int next_tokens={_EVERY_TOKEN}, int cmp_ratio=1, str device='npu') "
    "-> (Tensor metadata)",
    no_metadata,
)
