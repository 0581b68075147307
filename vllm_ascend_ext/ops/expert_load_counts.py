# SPDX-License-Identifier: Apache-2.0
"""Defines `expert_load_add_counts_`, which adds the tokens of each expert where the model only has grouped counts.

Shapes: E = experts.
"""

from __future__ import annotations

import torch

from vllm_ascend_ext.ops._library import define_op

_INTEGERS = (torch.int32, torch.int64)


def check(load_E: torch.Tensor, counts_E: torch.Tensor, is_cumsum: bool) -> None:
    """Raises what the public function says it raises."""
    if load_E.dim() != 1 or counts_E.shape != load_E.shape:
        raise ValueError(
            "expert_load_add_counts_ takes load [E] and counts [E], not shapes "
            f"{list(load_E.shape)} and {list(counts_E.shape)}"
        )
    if load_E.dtype not in _INTEGERS or counts_E.dtype not in _INTEGERS:
        raise TypeError(
            "expert_load_add_counts_ takes int32 or int64 load and counts, not "
            f"{load_E.dtype} and {counts_E.dtype}"
        )
    if load_E.device != counts_E.device:
        raise ValueError(
            f"expert_load_add_counts_ takes tensors of one device, not {load_E.device} and {counts_E.device}"
        )


def _reference(load_E: torch.Tensor, counts_E: torch.Tensor, is_cumsum: bool) -> None:
    check(load_E, counts_E, is_cumsum)
    if is_cumsum:
        counts_E = torch.diff(counts_E, prepend=counts_E.new_zeros(1))
    load_E.add_(counts_E.to(load_E.dtype))


_OP = define_op(
    "expert_load_add_counts_(Tensor(a!) load_E, Tensor counts_E, bool is_cumsum) -> ()",
    reference=_reference,
    fake=check,
)


def expert_load_add_counts_(load_E: torch.Tensor, counts_E: torch.Tensor, is_cumsum: bool) -> None:
    """Adds ``counts_E[e]`` to ``load_E[e]``, or the differences of `counts_E` when it is a running sum.

    Never waits for the device, so it can be captured in a graph. The counts include whatever the path that made
    them has dispatched, padding too: prefer `expert_load_add_` where the routed ids are at hand.

    Args:
        load_E: ``[E]`` int32 or int64, changed in place. The caller keeps it from overflowing.
        counts_E: ``[E]`` int32 or int64, same device: tokens of each expert, or of experts 0 to e together.
        is_cumsum: whether `counts_E` is a running sum.

    Raises:
        ValueError: other shapes, or tensors of different devices.
        TypeError: other dtypes.

    Source: ``group_list`` of vllm-ascend 0.23.0's MC2 dispatch, a running sum when ``group_list_type`` is 0 and
    counts when it is 1.
    """
    _OP(load_E, counts_E, is_cumsum)
