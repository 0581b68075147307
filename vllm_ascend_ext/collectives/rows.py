# SPDX-License-Identifier: Apache-2.0
"""Packs rows of several ranks into one tensor: end to end, or padded (as many for each rank, the rest zero).

Rows are the first dimension; `longest` is the number of rows that each rank has when padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch


def padded(x: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Returns `x`, ``[T, ...]``, with zero rows below: ``[num_rows, ...]``, `x` itself when ``T == num_rows``."""
    if x.shape[0] == num_rows:
        return x
    return torch.cat([x, x.new_zeros(num_rows - x.shape[0], *x.shape[1:])])


def parts(x: torch.Tensor, longest: int) -> list[torch.Tensor]:
    """Returns views of a padded `x`, one for each rank. `longest` is at least 1."""
    return [x[start : start + longest] for start in range(0, x.shape[0], longest)]


def packed(x: torch.Tensor, sizes: Sequence[int], longest: int) -> torch.Tensor:
    """Returns a padded `x`, ``[R * longest, ...]``, without its pad rows: ``[sum(sizes), ...]``."""
    if all(size == longest for size in sizes):
        return x
    return torch.cat([part[:size] for part, size in zip(parts(x, longest), sizes, strict=True)])


def unpacked(x: torch.Tensor, sizes: Sequence[int], longest: int) -> torch.Tensor:
    """Undoes `packed`; pad rows are zero."""
    if all(size == longest for size in sizes):
        return x
    rows = [x[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return torch.cat([padded(part, longest) for part in rows])
