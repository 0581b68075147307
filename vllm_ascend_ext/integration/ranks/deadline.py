# SPDX-License-Identifier: Apache-2.0
"""Tells how long a collective of this process may take."""

from __future__ import annotations

_DEFAULT_DEADLINE_S = 300.0  # where vLLM has no configuration, as in tests


def deadline_s() -> float:
    """Returns the deadline of one collective: vLLM's own timeout for its CPU groups, else five minutes."""
    from vllm.distributed.utils import get_cpu_distributed_timeout_or_none

    timeout = get_cpu_distributed_timeout_or_none()
    return timeout.total_seconds() if timeout is not None else _DEFAULT_DEADLINE_S
