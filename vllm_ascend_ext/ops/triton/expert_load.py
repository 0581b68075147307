# SPDX-License-Identifier: Apache-2.0
"""Implements `expert_load_add_` in Triton: a histogram a block, then one atomic add an expert."""

from __future__ import annotations

import torch
import triton
from triton import language as tl

from vllm_ascend_ext.ops.expert_load import check

_BLOCK = 2048


@triton.jit
def _kernel(load, ids, num_tokens, num_rows, top_k, num_experts, BINS: tl.constexpr, BLOCK: tl.constexpr):
    num_ids = tl.minimum(tl.load(num_tokens), num_rows).to(tl.int64) * top_k
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start < num_ids:
        at = start + tl.arange(0, BLOCK)
        expert = tl.load(ids + at, mask=at < num_ids, other=-1)
        counts = (expert >= 0) & (expert < num_experts)
        histogram = tl.histogram(tl.where(counts, expert, 0).to(tl.int32), BINS, mask=counts)
        bins = tl.arange(0, BINS)
        added = histogram.to(load.dtype.element_ty)
        tl.atomic_add(load + bins, added, mask=(bins < num_experts) & (histogram > 0), sem="relaxed")


def expert_load_add_(load_E: torch.Tensor, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor) -> None:
    """Runs `vllm_ascend_ext.ops.expert_load_add_` on a GPU."""
    check(load_E, topk_ids_TK, num_tokens)
    num_rows, top_k = topk_ids_TK.shape
    num_experts = load_E.shape[0]
    if topk_ids_TK.numel() == 0 or num_experts == 0:
        return
    load = load_E if load_E.is_contiguous() else torch.zeros_like(load_E, memory_format=torch.contiguous_format)
    grid = (triton.cdiv(topk_ids_TK.numel(), _BLOCK),)
    bins = max(triton.next_power_of_2(num_experts), 2)
    _kernel[grid](
        load, topk_ids_TK.contiguous(), num_tokens, num_rows, top_k, num_experts, BINS=bins, BLOCK=_BLOCK
    )
    if load is not load_E:
        load_E.add_(load)
