# SPDX-License-Identifier: Apache-2.0
"""Counts how many bytes of global memory each operator must move at least. For tests and benchmarks/ops.py."""

from __future__ import annotations

import torch

from vllm_ascend_ext import ops


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def least_bytes(op: str, arguments: tuple[object, ...]) -> int:
    """Counts each input that matters read once, each output written once; what is added to counts as written."""
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    if op == "expert_load_add_":
        load, ids, num_tokens = tensors
        return _bytes(load, ids[: max(int(num_tokens), 0)], num_tokens)
    if op == "expert_load_add_counts_":
        return _bytes(*tensors)
    if op == "dp_pad":
        local, rows, _, total = arguments
        return (rows + total) * _bytes(local[:1])
    if op == "dp_unpad":
        return 2 * arguments[1] * _bytes(tensors[0][:1])
    if op == "add_rms_norm":
        x, residual, weight = tensors
        return 2 * _bytes(x, residual) + _bytes(weight)
    token_ids, num_accepted, status, *top = tensors
    slots, top_k = token_ids.shape[1], top[0].shape[2] if top else 0
    accepted = int(num_accepted.clamp(0, slots).sum())
    record = ops.MtpRecord(slots, top_k)
    read = accepted * 4 * (1 + (2 * top_k + 1 if top_k else 0))
    return read + _bytes(num_accepted, status) + token_ids.shape[0] * record.words * 4
