# SPDX-License-Identifier: Apache-2.0
"""Defines `expert_load_add_`, which counts the tokens routed to each expert.

Shapes: T = rows (tokens, padding included), K = experts a token, E = experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vllm_ascend_ext.ops._library import define_op, undispatched

AddLoad = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
_INTEGERS = (torch.int32, torch.int64)


def check(load_E: torch.Tensor, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor) -> None:
    """Raises what the public function says it raises."""
    if load_E.dim() != 1 or topk_ids_TK.dim() != 2 or num_tokens.numel() != 1:
        raise ValueError(
            "expert_load_add_ takes load [E], topk_ids [T, K] and one num_tokens, not shapes "
            f"{list(load_E.shape)}, {list(topk_ids_TK.shape)} and {list(num_tokens.shape)}"
        )
    if load_E.dtype not in _INTEGERS or topk_ids_TK.dtype not in _INTEGERS or num_tokens.dtype != torch.int32:
        raise TypeError(
            "expert_load_add_ takes int32 or int64 load and topk_ids and int32 num_tokens, not "
            f"{load_E.dtype}, {topk_ids_TK.dtype} and {num_tokens.dtype}"
        )
    if not load_E.device == topk_ids_TK.device == num_tokens.device:
        raise ValueError(
            "expert_load_add_ takes tensors of one device, not "
            f"{load_E.device}, {topk_ids_TK.device} and {num_tokens.device}"
        )


def _reference(load_E: torch.Tensor, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor) -> None:
    check(load_E, topk_ids_TK, num_tokens)
    num_experts = load_E.shape[0]
    if num_experts == 0:
        return
    rows_T1 = torch.arange(topk_ids_TK.shape[0], device=load_E.device).unsqueeze(1)
    counts_TK = (rows_T1 < num_tokens.reshape(1, 1)) & (topk_ids_TK >= 0) & (topk_ids_TK < num_experts)
    expert_TK = torch.where(counts_TK, topk_ids_TK, 0)  # what does not count adds zero to expert 0
    load_E.scatter_add_(0, expert_TK.flatten().long(), counts_TK.flatten().to(load_E.dtype))


_OP = define_op(
    "expert_load_add_(Tensor(a!) load_E, Tensor topk_ids_TK, Tensor num_tokens) -> ()",
    reference=_reference,
    fake=check,
)


def expert_load_add_(load_E: torch.Tensor, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor) -> None:
    """Adds to ``load_E[e]`` how often expert e occurs in the first `num_tokens` rows of `topk_ids_TK`.

    Never waits for the device, so it can be captured in a graph; the result is bitwise the same everywhere.

    Args:
        load_E: ``[E]`` int32 or int64, changed in place. The caller keeps it from overflowing.
        topk_ids_TK: ``[T, K]`` int32 or int64, same device; ids outside ``[0, E)`` do not count. T may be 0.
        num_tokens: int32, 0-d or one element, on the same device. Rows from here on (padding, dummy
            tokens) do not count; more than T means all rows, less than 0 none.

    Raises:
        ValueError: other shapes, or tensors of different devices.
        TypeError: other dtypes.

    Source: the counting in vllm-ascend 0.23.0 ``ops/fused_moe/fused_moe_0_23_0.py``, which has no
    `num_tokens` and so counts padding and dummy tokens.
    """
    _OP(load_E, topk_ids_TK, num_tokens)


def expert_load_adder(device_type: str) -> AddLoad:
    """Returns what does the same for tensors of one device, for a caller outside of graphs; see `undispatched`."""
    return undispatched(_OP, device_type)
