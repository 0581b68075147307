# SPDX-License-Identifier: Apache-2.0
"""Counts the bytes that one rank sends in a collective, by the ring algorithm; R ranks, sizes in bytes.

`Collectives` counts by these functions what it did, and plans predict by them what it will do.
"""

from __future__ import annotations


def all_gather(own: int, num_ranks: int) -> int:
    """Returns (R - 1) times `own`: every rank sends its `own` bytes to the R - 1 others."""
    return (num_ranks - 1) * own


def reduce_scatter(whole: int, num_ranks: int) -> int:
    """Returns what a reduce-scatter sends: every rank gives `whole` bytes and keeps one part of R."""
    return (num_ranks - 1) * whole // num_ranks


def all_reduce(whole: int, num_ranks: int) -> int:
    """Returns what a reduce-scatter and an all-gather of `whole` bytes send."""
    return 2 * (num_ranks - 1) * whole // num_ranks


def all_gather_variable(own: int, num_ranks: int) -> int:
    """Returns what a gather of uneven parts sends: this rank's `own` bytes to each of the R - 1 others."""
    return (num_ranks - 1) * own


def reduce_scatter_variable(whole: int, own: int) -> int:
    """Returns what an uneven reduce-scatter sends: `whole` bytes, except the `own` bytes that this rank keeps."""
    return whole - own
