# SPDX-License-Identifier: Apache-2.0
"""Implements vLLM's slot mapping kernel in torch operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class _Kernel:
    """Launches as Triton kernels do: `kernel[grid](arguments)`."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return _launch


def _launch(
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc: Tensor,  # [requests + 1]
    positions: Tensor,  # [num_tokens]
    block_table: Tensor,  # [requests at most, blocks a request at most]
    block_table_stride: int,
    block_size: int,
    slot_mapping: Tensor,  # [max_num_tokens], written
    *,
    TOTAL_CP_WORLD_SIZE: int,  # noqa: N803 - vLLM's names
    PAD_ID: int,  # noqa: N803
    **_: int,
) -> None:
    """Computes slot = number of the token's block * block_size + place in the block; PAD_ID behind the last
    token.

    Of DeepSeek-V4's compressed keys a request has fewer blocks than its positions ask for. As on a device, those
    are read from the next rows; nobody asks for these slots.
    """
    if TOTAL_CP_WORLD_SIZE != 1:
        raise NotImplementedError("emulator: the slot mapping stand-in has no context parallelism")
    token = torch.arange(num_tokens, device=positions.device)
    request = (token[:, None] >= query_start_loc[None, 1:-1]).sum(dim=1)
    position = positions[:num_tokens]
    place = request * block_table_stride + position // block_size
    block = block_table.flatten()[place.clamp(max=block_table.numel() - 1)]
    slot_mapping[:num_tokens] = block * block_size + position % block_size
    slot_mapping[num_tokens:max_num_tokens] = PAD_ID


compute_slot_mapping = _Kernel()
