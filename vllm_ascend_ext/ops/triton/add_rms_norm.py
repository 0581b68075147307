# SPDX-License-Identifier: Apache-2.0
"""Implements `add_rms_norm` in Triton: a program a row."""

from __future__ import annotations

import torch
import triton
from triton import language as tl

from vllm_ascend_ext.ops.add_rms_norm import check


@triton.jit
def _kernel(y, residual_out, x, residual, weight, width, eps, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    valid = column < width
    at = tl.program_id(0).to(tl.int64) * width + column
    total = tl.load(x + at, mask=valid, other=0.0).to(tl.float32)
    total += tl.load(residual + at, mask=valid, other=0.0).to(tl.float32)
    tl.store(residual_out + at, total.to(residual_out.dtype.element_ty), mask=valid)
    rms = tl.sqrt_rn(tl.sum(total * total, axis=0) / width + eps)
    scale = tl.load(weight + column, mask=valid, other=0.0).to(tl.float32)
    tl.store(y + at, (total * (1.0 / rms) * scale).to(y.dtype.element_ty), mask=valid)


def add_rms_norm(
    x_TH: torch.Tensor, residual_TH: torch.Tensor, weight_H: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs `vllm_ascend_ext.ops.add_rms_norm` on a GPU."""
    check(x_TH, residual_TH, weight_H)
    num_rows, width = x_TH.shape
    y_TH, residual_out_TH = x_TH.new_empty(num_rows, width), x_TH.new_empty(num_rows, width)
    if num_rows:
        block = triton.next_power_of_2(width)
        _kernel[(num_rows,)](
            y_TH,
            residual_out_TH,
            x_TH.contiguous(),
            residual_TH.contiguous(),
            weight_H.contiguous(),
            width,
            eps,
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 16),
        )
    return y_TH, residual_out_TH
