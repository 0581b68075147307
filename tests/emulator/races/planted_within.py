# SPDX-License-Identifier: Apache-2.0
"""Single operators that touch the same memory twice with no order of their own, and their twins."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.emulator.races.planted import Planted, _full


def listed_twice(correct: bool) -> bool:
    """Adds to two tensors of a list at once, which may be one."""
    first = _full(1)
    second = _full(1) if correct else first
    torch._foreach_add_([first, second], [_full(1), _full(2)])
    return bool((first.cpu() == 2).all() and (second.cpu() == 3).all())


def lists_crossed(correct: bool) -> bool:
    """Lets each tensor of a list take over the other, or itself."""
    tensors = [_full(1), _full(2)]
    torch._foreach_add_(tensors, tensors if correct else tensors[::-1])
    return bool((tensors[0].cpu() == 2).all() and (tensors[1].cpu() == 4).all())


def columns_beside_columns(correct: bool) -> bool:
    """Adds columns of a table to others of it, which lie between them in memory."""
    table = torch.ones(1000, 8, device="npu")
    table[:, :4].add_(table[:, 4:] if correct else table[:, 3:7])
    return bool((table[:, :4].cpu() == 2).all())


def two_results_in_one(correct: bool) -> bool:
    """Takes values and indices of a maximum into the same memory."""
    values = torch.arange(32, dtype=torch.float32, device="npu").view(4, 8)
    best = torch.empty(4, dtype=torch.float32, device="npu")
    memory = torch.empty(8, dtype=torch.float32, device="npu")
    places = torch.empty(4, dtype=torch.int64, device="npu") if correct else memory.view(torch.int64)
    torch.max(values, 1, out=(best if correct else memory[:4], places))
    return bool((places.cpu() == 7).all())


def _planted(run: Callable[[bool], bool]) -> Planted:
    return Planted(run, ("uses the same memory twice", f"in {run.__name__}"))


WITHIN = [_planted(run) for run in (listed_twice, lists_crossed, columns_beside_columns, two_results_in_one)]
