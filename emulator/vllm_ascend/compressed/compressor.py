# SPDX-License-Identifier: Apache-2.0
"""Implements the compressor of DeepSeek-V4, which makes one key of each `cmp_ratio` tokens, and tells where those
keys belong.

A request's tokens [0, ratio) are its key 0, and so on; a step makes the keys whose last token it has. R rows are
passed on, of which the first are keys, packed by request.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import define
from .packed import places, positions, read, request_of, write
from .rows import rotate_pairs

_FLAT, _BLOCK_AND_OFFSET = 1, 2  # of `slot_mapping_format`
_PAIRS, _PAGED = 2, 1  # of `rotary_mode`, `cache_mode`


def compressor(
    x: Tensor,  # [T, H]
    wkv: Tensor,  # [coff * D, H]
    wgate: Tensor,
    state_cache: Tensor,  # [blocks, block size, 2 * coff * D]
    ape: Tensor,  # [ratio, coff * D]
    norm_weight: Tensor,  # [D]
    rope_sin: Tensor,  # [R, rope]
    rope_cos: Tensor,
    state_block_table: Tensor,
    cu_seqlens: Tensor,  # [B + 1]
    seqused: Tensor | None,
    start_pos: Tensor,  # [B]
    rope_head_dim: int,
    cmp_ratio: int,
    coff: int,
    norm_eps: float,
    rotary_mode: int,
    cache_mode: int,
) -> Tensor:
    """Returns the keys [R, D] that the step's tokens complete, and keeps each token's part in the state cache at
    the token's position. With `coff` 2 a key is made of the tokens before its own, too.

    Raises:
        NotImplementedError: pairs that do not lie side by side, a cache without pages, or `seqused`.
    """
    if rotary_mode != _PAIRS or cache_mode != _PAGED or seqused is not None:
        raise NotImplementedError("not emulated: a compressor with other pairs, without pages, or with seqused")
    block_size = state_cache.shape[1]
    request_T, position_T = positions(x.shape[0], cu_seqlens, start_pos)
    parts = [F.linear(x.float(), weight.float()) for weight in (wkv, wgate)]
    parts[1] = parts[1] + ape.float()[position_T % cmp_ratio]
    write(state_cache, places(state_block_table, request_T, position_T, block_size), torch.cat(parts, -1))

    num_rows = rope_cos.shape[0]
    request_R, key_R, _ = keys_of_rows(num_rows, cu_seqlens, start_pos, cmp_ratio)
    offsets = torch.arange(-(coff - 1) * cmp_ratio, cmp_ratio, device=x.device)
    position_RW = key_R[:, None] * cmp_ratio + offsets
    is_there = (position_RW >= 0)[..., None]
    of_requests = request_R[:, None].expand_as(position_RW)
    places_RW = places(state_block_table, of_requests, position_RW.clamp(min=0), block_size)
    values, scores = (_own_part(half, coff, cmp_ratio) for half in read(state_cache, places_RW).chunk(2, -1))
    shares = scores.masked_fill(~is_there, float("-inf")).softmax(1)
    mixed_RD = (values.masked_fill(~is_there, 0) * shares).sum(1)
    keys_RD = mixed_RD * (mixed_RD.square().mean(-1, keepdim=True) + norm_eps).rsqrt() * norm_weight.float()
    plain, turned = keys_RD[:, :-rope_head_dim], keys_RD[:, -rope_head_dim:]
    turned = rotate_pairs(turned, rope_cos.float(), rope_sin.float())
    return torch.cat([plain, turned], -1).to(x.dtype)


def keys_of_rows(
    num_rows: int, cu_seqlens: Tensor, start_pos: Tensor, cmp_ratio: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns of each row its request, the number of its key there, and whether there is such a key, all [R]."""
    lengths_B = cu_seqlens.long().diff()
    start_B = start_pos.long()[: lengths_B.shape[0]]
    first_B = start_B // cmp_ratio
    ends_B = ((start_B + lengths_B) // cmp_ratio - first_B).cumsum(0)
    rows_R = torch.arange(num_rows, device=ends_B.device)
    request_R = request_of(rows_R, ends_B)
    begins_B = ends_B - ((start_B + lengths_B) // cmp_ratio - first_B)
    return request_R, first_B[request_R] + rows_R - begins_B[request_R], rows_R < ends_B[-1]


def compressor_metadata(
    rope_cos: Tensor,  # [positions, rope]
    rope_sin: Tensor,
    cu_seqlens: Tensor,
    start_pos: Tensor,
    kv_block_table: Tensor,
    kv_block_size: int,
    slot_mapping_format: int,
    compress_ratio: int,
    num_compressed_tokens: int,
    num_reqs_actual: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns cos and sin [R, 1, 1, rope] at the first token of each key, and its place in the cache of keys.

    Rows without a key get an angle of zero and no place. Requests from `num_reqs_actual` on have none.
    """
    request_R, key_R, is_there = keys_of_rows(num_compressed_tokens, cu_seqlens, start_pos, compress_ratio)
    position_R = key_R * compress_ratio
    is_there &= (request_R < num_reqs_actual) & (key_R // kv_block_size < kv_block_table.shape[1])
    is_there &= position_R < rope_cos.shape[0]
    key_R = torch.where(is_there, key_R, 0)
    block_R, offset_R = places(kv_block_table, request_R, key_R, kv_block_size)
    is_there &= block_R >= 0
    at_R = torch.where(is_there, position_R, 0)
    cos = torch.where(is_there[:, None], rope_cos.index_select(0, at_R), 1)[:, None, None]
    sin = torch.where(is_there[:, None], rope_sin.index_select(0, at_R), 0)[:, None, None]
    if slot_mapping_format == _FLAT:
        return cos, sin, torch.where(is_there, block_R * kv_block_size + offset_R, -1).int()
    block_R = torch.where(is_there, block_R, -1)
    offset_R = torch.where(is_there, offset_R, kv_block_size - 1)
    return cos, sin, torch.stack([block_R, offset_R], -1).int()


def compressor_metadata_out(
    rope_cos: Tensor,
    rope_sin: Tensor,
    cu_seqlens: Tensor,
    start_pos: Tensor,
    kv_block_table: Tensor,
    kv_block_size: int,
    slot_mapping_format: int,
    compress_ratio: int,
    num_reqs_actual: int,
    compress_cos: Tensor,
    compress_sin: Tensor,
    slot_mapping: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Writes the same into the last three, whose number of rows it is, and returns them."""
    outputs = (compress_cos, compress_sin, slot_mapping)
    given = (rope_cos, rope_sin, cu_seqlens, start_pos, kv_block_table, kv_block_size, slot_mapping_format)
    found = compressor_metadata(*given, compress_ratio, compress_cos.shape[0], num_reqs_actual)
    for output, value in zip(outputs, found, strict=True):
        output.copy_(value)
    return outputs


def _own_part(state_RWD: Tensor, coff: int, cmp_ratio: int) -> Tensor:
    """Returns of the tokens before a key's own their first part, and of its own the last."""
    size = state_RWD.shape[-1] // coff
    parts = [state_RWD[:, i * cmp_ratio : (i + 1) * cmp_ratio, i * size : (i + 1) * size] for i in range(coff)]
    return torch.cat(parts, 1)


def _compressor_shapes(x: Tensor, *arguments: Tensor, **_: object) -> Tensor:
    norm_weight, rope_cos = arguments[4], arguments[6]
    return x.new_empty((rope_cos.shape[0], norm_weight.shape[0]))


define(
    "_C_ascend",
    "compressor(Tensor x, Tensor wkv, Tensor wgate, Tensor(a!) state_cache, Tensor ape, Tensor norm_weight, "
    "Tensor rope_sin, Tensor rope_cos, Tensor? state_block_table, Tensor? cu_seqlens, Tensor? seqused, "
    "Tensor? start_pos, int rope_head_dim, int cmp_ratio, int coff, float norm_eps, int rotary_mode, "
    "int cache_mode) -> Tensor",
    compressor,
    _compressor_shapes,
)
define(
    "_C_ascend",
    "compressor_metadata(Tensor rope_cos, Tensor rope_sin, Tensor cu_seqlens, Tensor start_pos, "
    "Tensor kv_block_table, int kv_block_size, int slot_mapping_format, int compress_ratio, "
    "int num_compressed_tokens, int num_reqs_actual) -> (Tensor, Tensor, Tensor)",
    compressor_metadata,
)
define(
    "_C_ascend",
    "compressor_metadata_out(Tensor rope_cos, Tensor rope_sin, Tensor cu_seqlens, Tensor start_pos, "
    "Tensor kv_block_table, int kv_block_size, int slot_mapping_format, int compress_ratio, int num_reqs_actual, "
    "Tensor(a!) compress_cos, Tensor(b!) compress_sin, Tensor(c!) slot_mapping) "
    "-> (Tensor(a!), Tensor(b!), Tensor(c!))",
    compressor_metadata_out,
)
