# SPDX-License-Identifier: Apache-2.0
"""Bytes that one rank sends in a collective, by the ring algorithm's count; R ranks, sizes in bytes.

`Collectives` counts by these functions what it did, and plans predict by them what it will do.
"""

from __future__ import annotations


def all_gather(own: int, num_ranks: int) -> int:
    """Every rank gives `own` bytes, which go to the R - 1 others."""
    return (num_ranks - 1) * own


def reduce_scatter(whole: int, num_ranks: int) -> int:
    """Every rank gives `whole` bytes and keeps one part of R."""
    return (num_ranks - 1) * whole // num_ranks


def all_reduce(whole: int, num_ranks: int) -> int:
    """A reduce-scatter and an all-gather of `whole` bytes."""
    return 2 * (num_ranks - 1) * whole // num_ranks


def all_gather_variable(own: int, num_ranks: int) -> int:
    """This rank gives `own` bytes, which go to the R - 1 others, who give as many as they have."""
    return (num_ranks - 1) * own


def reduce_scatter_variable(whole: int, own: int) -> int:
    """This rank gives `whole` bytes and keeps the `own` bytes that are its part."""
    return whole - own
