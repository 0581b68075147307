# SPDX-License-Identifier: Apache-2.0
"""Keeps the `Collectives` of this process by group, and tells what was sent over each."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.collectives.collectives import Collectives

_groups: dict[str, Collectives] = {}


def register(name: str, collectives: Collectives) -> None:
    """Enters one group; a group built again under its name (a new engine in this process) replaces the old."""
    _groups[name] = collectives


def report() -> dict[str, dict[str, dict[str, Any]]]:
    """Returns group name → operation → {calls, rows, bytes}, since the last `reset`."""
    return {name: collectives.traffic() for name, collectives in _groups.items()}


def reset() -> None:
    """Forgets what was sent until now, over all groups."""
    for collectives in _groups.values():
        collectives.reset_traffic()
