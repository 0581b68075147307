# SPDX-License-Identifier: Apache-2.0
"""Defines the products of rows with the low-rank matrices that their requests chose.

Shapes: B rows, L adapters, K = inner size, N = outer size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import define


def _product(x_BK: Tensor, weight_LNK: Tensor, adapter_B: Tensor) -> Tensor:
    """Returns [B, N] in float32; rows without an adapter, a negative number, are zero."""
    weights = weight_LNK.view(weight_LNK.shape[0], *weight_LNK.shape[-2:])
    chosen_BNK = weights[adapter_B.long().clamp(min=0)].float()
    product_BN = torch.bmm(chosen_BNK, x_BK.float().unsqueeze(-1)).squeeze(-1)
    return product_BN.where((adapter_B >= 0)[:, None], 0)


def _of_rows(x: Tensor, adapters: Tensor, lengths: Tensor) -> Tensor:
    """Returns the adapter of each row of `x`, whose sequences lie one after the other; -1 behind the last."""
    ends = lengths.long().cumsum(0)
    row = torch.arange(x.shape[0], device=x.device)
    sequence = (row[:, None] >= ends[None, :]).sum(dim=1)
    number = adapters[sequence.clamp(max=adapters.shape[0] - 1)].long()
    return number.where(sequence < adapters.shape[0], -1)


def bgmv_shrink(x: Tensor, weight: Tensor, indices: Tensor, y: Tensor, scale: float) -> None:
    """Adds to `y`, [B, N], the scaled products of `x`, [B, K], by each row's adapter of `weight`, [L, N, K]."""
    y.copy_((y.float() + _product(x, weight, indices) * scale).to(y.dtype))


def bgmv_expand(
    x: Tensor, weight: Tensor, indices: Tensor, y: Tensor, slice_offset: int, slice_size: int
) -> Tensor:
    """Adds the products to `slice_size` columns of `y` from `slice_offset` on, and returns `y`."""
    columns = y[:, slice_offset : slice_offset + slice_size]
    columns.copy_((columns.float() + _product(x, weight, indices)).to(y.dtype))
    return y


def sgmv_shrink(x: Tensor, weight: Tensor, lora_indices: Tensor, seq_len: Tensor, y: Tensor, scale: float) -> None:
    """Does `bgmv_shrink` with an adapter for each sequence instead of each row."""
    bgmv_shrink(x, weight, _of_rows(x, lora_indices, seq_len), y, scale)


def sgmv_expand(
    x: Tensor,
    weight: Tensor,
    lora_indices: Tensor,
    seq_len: Tensor,
    y: Tensor,
    slice_offset: int,
    slice_size: int,
) -> Tensor:
    """Does `bgmv_expand` with an adapter for each sequence instead of each row."""
    return bgmv_expand(x, weight, _of_rows(x, lora_indices, seq_len), y, slice_offset, slice_size)


define(
    "_C_ascend",
    "bgmv_shrink(Tensor! x, Tensor! weight, Tensor! indices, Tensor! y, float scale) -> ()",
    bgmv_shrink,
)
define(
    "_C_ascend",
    "bgmv_expand(Tensor! x, Tensor! weight, Tensor! indices, Tensor! y, int slice_offset, int slice_size) "
    "-> Tensor",
    bgmv_expand,
)
define(
    "_C_ascend",
    "sgmv_shrink(Tensor! x, Tensor! weight, Tensor! lora_indices, Tensor! seq_len, Tensor! y, float scale) -> ()",
    sgmv_shrink,
)
define(
    "_C_ascend",
    "sgmv_expand(Tensor! x, Tensor! weight, Tensor! lora_indices, Tensor! seq_len, Tensor! y, int slice_offset, "
    "int slice_size) -> Tensor",
    sgmv_expand,
)
