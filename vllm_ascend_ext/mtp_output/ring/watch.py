# SPDX-License-Identifier: Apache-2.0
"""Tells how full a ring is, and how long its writer has been blocked, from any process and without asking it."""

from __future__ import annotations

import time
from typing import NamedTuple

from vllm_ascend_ext.mtp_output.errors import ChannelError
from vllm_ascend_ext.mtp_output.ring.file import Word
from vllm_ascend_ext.mtp_output.ring.folder import open_ring, ring_path


class RingLevel(NamedTuple):
    """Holds what a look at a ring has seen.

    Attributes:
        occupancy: frames that no reader has acknowledged.
        capacity: frames that may wait.
        blocked_s: seconds that the writer has waited for room since it opened the ring, this moment included.
    """

    occupancy: int
    capacity: int
    blocked_s: float


def ring_level(instance: int, replica: int) -> RingLevel | None:
    """Returns the level of a replica's ring; None where there is no ring on this host, or no writer lives."""
    try:
        ring = open_ring(ring_path(instance, replica), writable=False)
    except (OSError, ChannelError):
        return None
    try:
        if not ring.writer.is_alive:
            return None
        words = ring.words
        blocked_ns, since_ns = words[Word.BLOCKED_NS], words[Word.BLOCKED_SINCE]
        if since_ns:
            blocked_ns += max(time.monotonic_ns() - since_ns, 0)
        return RingLevel(ring.num_unread, ring.size.num_descriptors, blocked_ns / 1e9)
    finally:
        ring.close()
