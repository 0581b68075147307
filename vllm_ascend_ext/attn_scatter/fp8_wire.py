# SPDX-License-Identifier: Apache-2.0
"""Encodes rows in FP8 for a gather: each group of 128 elements with one scale, half or a quarter of the bytes.

Shapes: T = rows, H = row width, G = ceil(H / 128) groups of a row.
"""

from __future__ import annotations

import torch

GROUP = 128
_E4M3_MAX = 448.0
RELATIVE_ERROR = 2.0**-4  # of an element: e4m3 rounds to three bits after the leading one
ABSOLUTE_ERROR = 2.0**-10 / _E4M3_MAX  # of its group's largest element: half of e4m3's smallest step


def wire_bytes(width: int) -> int:
    """Returns the bytes of a row of `width` elements on the wire: an FP8 element each, and a float32 scale for
    each group."""
    return width + 4 * -(-width // GROUP)


def encode(x_TH: torch.Tensor) -> torch.Tensor:
    """Encodes ``[T, H]`` floats as ``[T, wire_bytes(H)]`` uint8.

    An element x of a group whose largest magnitude is m comes back within
    ``max(RELATIVE_ERROR * |x|, ABSOLUTE_ERROR * m)``, besides the rounding to its own dtype. Zero stays zero; a
    group with an infinity or NaN comes back as NaN, one below 5e-36 as zero.
    """
    num_rows, width = x_TH.shape
    num_groups = -(-width // GROUP)
    groups_TGE = torch.nn.functional.pad(x_TH.float(), (0, -width % GROUP)).view(num_rows, num_groups, GROUP)
    scale_TG1 = groups_TGE.abs().amax(dim=2, keepdim=True) / _E4M3_MAX
    scale_TG1 = torch.where(scale_TG1 < torch.finfo(torch.float32).tiny, 1.0, scale_TG1)
    values_TGE = (groups_TGE / scale_TG1).to(torch.float8_e4m3fn)
    values_TH = values_TGE.flatten(1)[:, :width].view(torch.uint8)
    scales_TB = scale_TG1.flatten(1).view(torch.uint8).reshape(num_rows, 4 * num_groups)
    return torch.cat([values_TH, scales_TB], dim=1)


def decode(wire_TB: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Decodes what `encode` made: ``[T, wire_bytes(H)]`` uint8 to ``[T, H]`` of `dtype`.

    Raises:
        ValueError: not the bytes of rows of `width` elements.
    """
    if wire_TB.dtype != torch.uint8 or wire_TB.dim() != 2 or wire_TB.shape[1] != wire_bytes(width):
        raise ValueError(f"{list(wire_TB.shape)} {wire_TB.dtype} are no FP8 rows of {width} elements")
    values_TH = wire_TB[:, :width].view(torch.float8_e4m3fn).float()
    scales_TB = wire_TB[:, width:].clone(memory_format=torch.contiguous_format)  # aligned to four bytes
    scale_TG = scales_TB.view(torch.float32)
    return (values_TH * scale_TG.repeat_interleave(GROUP, dim=1)[:, :width]).to(dtype)
