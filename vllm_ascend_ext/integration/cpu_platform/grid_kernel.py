# SPDX-License-Identifier: Apache-2.0
"""Gives a Python function the launch syntax of Triton, and holds what the replaced kernels share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class GridKernel:
    """Launches a function like a Triton kernel, ``kernel[grid](...)``; the function receives the grid first."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.name = function.__name__
        self._function = function

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._function, grid)

    def __repr__(self) -> str:
        return f"GridKernel({self.name})"


def segment_lengths(cumulative_B: Tensor, num_segments: int) -> Tensor:
    """Returns the lengths [B] (int64) of the segments whose ends are ``cumulative_B`` (inclusive sums)."""
    ends_B = cumulative_B[:num_segments].long()
    return torch.diff(ends_B, prepend=ends_B.new_zeros(1))
