# SPDX-License-Identifier: Apache-2.0
"""Implements `expert_load_add_counts_` in Triton."""

from __future__ import annotations

import torch
import triton
from triton import language as tl

from vllm_ascend_ext.ops.expert_load_counts import check

_BLOCK = 1024


@triton.jit
def _kernel(load, load_stride, counts, num_experts, IS_CUMSUM: tl.constexpr, BLOCK: tl.constexpr):
    expert = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = expert < num_experts
    count = tl.load(counts + expert, mask=valid, other=0)
    if IS_CUMSUM:
        count -= tl.load(counts + expert - 1, mask=valid & (expert > 0), other=0)
    at = load + expert * load_stride
    tl.store(at, tl.load(at, mask=valid, other=0) + count.to(load.dtype.element_ty), mask=valid)


def expert_load_add_counts_(load_E: torch.Tensor, counts_E: torch.Tensor, is_cumsum: bool) -> None:
    """Runs `vllm_ascend_ext.ops.expert_load_add_counts_` on a GPU."""
    check(load_E, counts_E, is_cumsum)
    num_experts = load_E.shape[0]
    if num_experts:
        grid = (triton.cdiv(num_experts, _BLOCK),)
        _kernel[grid](
            load_E, load_E.stride(0), counts_E.contiguous(), num_experts, IS_CUMSUM=is_cumsum, BLOCK=_BLOCK
        )
