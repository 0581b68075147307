# SPDX-License-Identifier: Apache-2.0
"""Makes process groups of our own, beside vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from vllm_ascend_ext.collectives.collectives import Collectives

_IN_HOST_MEMORY = "gloo"


def own_group(ranks: Sequence[int], backend: str, deadline_s: float, name: str) -> Collectives:
    """Makes a group that no other thread or stream uses. Each of `ranks` calls it, and nobody else need.

    Args:
        ranks: world ranks of the group.
        backend: "gloo", or the backend of the device's collectives, which then work in stream order.
        deadline_s: longest time that one operation may take, in seconds.
        name: the group's name in errors, the same on all its ranks.
    """
    group = dist.new_group(
        list(ranks),
        backend=backend,
        timeout=timedelta(seconds=deadline_s),
        use_local_synchronization=True,  # ranks outside the group do not take part
    )
    return Collectives(group, deadline_s, name, stream_ordered=backend != _IN_HOST_MEMORY)
