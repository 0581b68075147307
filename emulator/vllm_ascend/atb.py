# SPDX-License-Identifier: Apache-2.0
"""Implements ATB operators in torch operations. Signatures: op-plugin, op_plugin/ops/atb (BSD-3)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_embedding(
    positions: Tensor, query: Tensor, key: Tensor, head_size: int, cos_sin_cache: Tensor, is_neox_style: bool
) -> None:
    """Rotates `query` and `key`, [tokens, heads * head_size], in place.

    cos_sin_cache: [positions, rotary size], the cosines and then the sines of half the rotary size.
    """
    cos, sin = cos_sin_cache.index_select(0, positions.flatten()).float()[:, None].chunk(2, dim=-1)
    for states in (query, key):
        rotary = states.view(states.shape[0], -1, head_size)[..., : cos_sin_cache.shape[-1]]
        first, second = rotary.float().chunk(2, -1) if is_neox_style else (rotary[..., ::2], rotary[..., 1::2])
        parts = (first * cos - second * sin, second * cos + first * sin)
        rotary.copy_(torch.cat(parts, -1) if is_neox_style else torch.stack(parts, -1).flatten(-2))


def reshape_and_cache(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_indices: Tensor
) -> None:
    """Writes `key` and `value`, [tokens, heads, size], to the caches, [blocks, block size, heads, size]."""
    torch.ops.npu.npu_scatter_pa_kv_cache(key, value, key_cache, value_cache, slot_indices, cache_mode="Norm")


def paged_cache_load(
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    seq_starts: Tensor | None = None,
    cumsum: bool = False,
    key: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """Reads `context_lens` tokens of each request from the caches into `key` and `value`, one after the other.

    seq_starts: where each request's tokens begin. cumsum: the lengths are running sums.
    """
    ends = context_lens if cumsum else context_lens.cumsum(0)
    starts = torch.nn.functional.pad(ends, (1, 0))[:-1]
    token = torch.arange(key.shape[0], device=key.device)
    request = (token[:, None] >= ends).sum(dim=1)
    position = token - starts[request] + (0 if seq_starts is None else seq_starts[request])
    block_size = key_cache.shape[1]
    slot = block_table[request, position // block_size] * block_size + position % block_size
    for cache, states in ((key_cache, key), (value_cache, value)):
        states.copy_(cache.flatten(0, 1)[slot])
    return key, value


def matmul_add_fp32(x: Tensor, weight: Tensor, C: Tensor) -> None:  # noqa: N803 - ATB's name
    """Adds the product of `x` transposed and `weight` to `C`, in float32."""
    C.add_(x.float().t() @ weight.float())


def gather_pa_kv_cache(
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    seq_offset: Tensor | None = None,
    is_seq_lens_cumsum: bool = False,
) -> None:
    """Does what `paged_cache_load` does, as an operator of torch_npu's own."""
    paged_cache_load(
        key_cache,
        value_cache,
        block_tables,
        seq_lens,
        seq_starts=seq_offset,
        cumsum=is_seq_lens_cumsum,
        key=key,
        value=value,
    )
