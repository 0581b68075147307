# SPDX-License-Identifier: Apache-2.0
"""Defines what moves keys and values within caches and into them.

Shapes: P blocks of a cache with S slots each, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..operators import define


def transpose_kv_cache_by_block(
    k_caches: Sequence[Tensor],
    v_caches: Sequence[Tensor],
    block_ids: Tensor,
    block_size: int,
    num_heads: int,
    head_size: int,
    num_splits: int,
    num_layers: int,
) -> None:
    """Puts the heads of each slot together in the blocks `block_ids` of all caches, [P, S, heads, head size].

    They came from `num_splits` ranks, one after the other: a block holds [splits, S, heads / splits, head size].
    """
    blocks = block_ids.long()
    for cache in (*k_caches[:num_layers], *v_caches[:num_layers]):
        parts = cache[blocks].view(blocks.shape[0], num_splits, block_size, -1)
        cache[blocks] = parts.transpose(1, 2).reshape(blocks.shape[0], block_size, num_heads, head_size)


def store_kv_block_metadata(
    slot_mapping: Tensor,
    group_len: Tensor,
    group_key_idx: Tensor,
    group_key_cache_idx: Tensor,
    block_size: int = 0,
) -> None:
    """Writes which tokens `store_kv_block` copies together, [T] each: how many, from which token, to which slot.

    A device joins neighbours; here each token is a group of its own, and one without a slot (-1) is a group of
    none.
    """
    slots = slot_mapping.flatten()
    group_len.copy_((slots >= 0).to(group_len.dtype))
    group_key_idx.copy_(torch.arange(slots.shape[0], device=slots.device, dtype=group_key_idx.dtype))
    group_key_cache_idx.copy_(slots.to(group_key_cache_idx.dtype))


def store_kv_block(
    key: Tensor,
    key_cache: Tensor,
    group_len: Tensor,
    group_key_idx: Tensor,
    group_key_cache_idx: Tensor,
    block_size: int = 0,
) -> None:
    """Writes rows of `key`, [T, ..], to slots of `key_cache`, [P, S, ..], as `store_kv_block_metadata` says."""
    rows = key_cache.view(key_cache.shape[0] * key_cache.shape[1], -1)
    new = key.reshape(key.shape[0], -1)[group_key_idx.long()]
    # one without a slot writes what the first that has one does; without any, what is there
    has_slot = group_len > 0
    first = has_slot.int().argmax()
    slot = group_key_cache_idx.long()
    other_slot = slot[first].where(has_slot[first], 0)
    other = new[first].where(has_slot[first], rows[other_slot])
    slot = slot.where(has_slot, other_slot)
    rows.index_copy_(0, slot, new.where(has_slot[:, None], other))


def batch_matmul_transpose(
    a: Tensor, b: Tensor, c: Tensor, format_mode: str | None = None, quant_mode: str | None = None
) -> None:
    """Writes to `c`, [B, M, N], the products of `a`, [B, M, K], with `b`, [M, K, N]. Raises NotImplementedError
    for a mode."""
    if quant_mode is not None:
        raise NotImplementedError(f"emulator: batch_matmul_transpose has no quant_mode {quant_mode!r}")
    c.copy_(torch.bmm(a.transpose(0, 1), b).transpose(0, 1))


def masked_input_and_mask(
    ids: Tensor, org_start: int, org_end: int, num_org_padding: int, added_start: int, added_end: int
) -> tuple[Tensor, Tensor]:
    """Returns the rows of `ids` in this rank's part of the embedding, 0 for others' ids, and whose those are."""
    is_org = (ids >= org_start) & (ids < org_end)
    is_added = (ids >= added_start) & (ids < added_end)
    added_offset = added_start - (org_end - org_start) - num_org_padding
    rows = (ids - org_start).where(is_org, (ids - added_offset).where(is_added, 0))
    return rows.to(ids.dtype), (is_org | is_added).logical_not()


define(
    "_C_ascend",
    "transpose_kv_cache_by_block(Tensor[] kCache, Tensor[] vCache, Tensor blockIDs, int blockSize, int headNum, "
    "int headDim, int splitNum, int layerNum) -> ()",
    transpose_kv_cache_by_block,
)
define(
    "_C_ascend",
    "store_kv_block_metadata(Tensor slot_mapping_npu, Tensor group_len, Tensor group_key_idx, "
    "Tensor group_key_cache_idx, int block_size=0) -> ()",
    store_kv_block_metadata,
)
define(
    "_C_ascend",
    "store_kv_block(Tensor key_in, Tensor key_cache_in, Tensor group_len, Tensor group_key_idx, "
    "Tensor group_key_cache_idx, int block_size=0) -> ()",
    store_kv_block,
)
define(
    "_C_ascend",
    "batch_matmul_transpose(Tensor tensor_a, Tensor tensor_b, Tensor tensor_c, str? format_mode=None, "
    "str? quant_mode=None) -> ()",
    batch_matmul_transpose,
)
define(
    "_C_ascend",
    "get_masked_input_and_mask(Tensor input, int org_vocab_start_index, int org_vocab_end_index, "
    "int num_org_vocab_padding, int added_vocab_start_index, int added_vocab_end_index) "
    "-> (Tensor masked_input, Tensor mask)",
    masked_input_and_mask,
)
