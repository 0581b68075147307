# SPDX-License-Identifier: Apache-2.0
"""Tells of packed tokens which request they are of and where in it, and reads rows of paged caches."""

from __future__ import annotations

import torch
from torch import Tensor


def request_of(rows: Tensor, ends_B: Tensor) -> Tensor:
    """Returns for each number of a row the request whose rows end behind it; rows behind all are the last's."""
    return (rows[:, None] >= ends_B).sum(-1).clamp(max=ends_B.shape[0] - 1)


def positions(num_tokens: int, begins: Tensor, start_B: Tensor) -> tuple[Tensor, Tensor]:
    """Returns of each token its request and its position there, both [T].

    begins: first token of each request, and the number of tokens, [B + 1]. start_B: first position of each.
    """
    begins, tokens_T = begins.long(), torch.arange(num_tokens, device=begins.device)
    request_T = request_of(tokens_T, begins[1:])
    return request_T, start_B.long()[request_T] + tokens_T - begins[request_T]


def places(block_table: Tensor, request: Tensor, position: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Returns block and place in it of positions of requests in a paged cache; all have the same shape. A position
    beyond the table is taken for one of its last block."""
    index = (position // block_size).clamp(max=block_table.shape[1] - 1)
    return block_table.long()[request, index], position % block_size


def read(cache: Tensor, place: tuple[Tensor, Tensor]) -> Tensor:
    """Returns rows of a cache [blocks, block size, D], or with one head, as float32 [*place[0].shape, D]."""
    return _rows(cache)[place].float()


def write(cache: Tensor, place: tuple[Tensor, Tensor], values: Tensor) -> None:
    """Writes values [R, D] to places of a cache; those of a block below zero are left out.

    They write the first row as it is, which is of the block that vLLM gives to nobody.
    """
    rows = _rows(cache)
    is_there = place[0] >= 0
    block, offset = (torch.where(is_there, part, 0) for part in place)
    rows.index_put_((block, offset), torch.where(is_there[:, None], values.to(cache.dtype), rows[0, 0]))


def _rows(cache: Tensor) -> Tensor:
    return cache[:, :, 0] if cache.dim() == 4 else cache
