# SPDX-License-Identifier: Apache-2.0
"""What this process has sent, per process group: the registry of the communicators' `Collectives`."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.collectives.collectives import Collectives

_DEFAULT_DEADLINE_S = 300.0  # without a configuration, as in tests
_groups: dict[str, Collectives] = {}


def deadline_s() -> float:
    """The deadline of one collective: vLLM's own timeout for its CPU groups, else five minutes."""
    from vllm.distributed.utils import get_cpu_distributed_timeout_or_none

    timeout = get_cpu_distributed_timeout_or_none()
    return timeout.total_seconds() if timeout is not None else _DEFAULT_DEADLINE_S


def register(name: str, collectives: Collectives) -> None:
    """Enter one group; a group built again under its name (a new engine in this process) replaces the old."""
    _groups[name] = collectives


def report() -> dict[str, dict[str, dict[str, Any]]]:
    """Group name → operation → {calls, rows, bytes}, since the last `reset`."""
    return {name: collectives.traffic() for name, collectives in _groups.items()}


def reset() -> None:
    for collectives in _groups.values():
        collectives.reset_traffic()
