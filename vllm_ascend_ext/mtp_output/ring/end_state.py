# SPDX-License-Identifier: Apache-2.0
"""Lays out the words in which one end of a ring keeps count; csrc_channel/mtp_ring.h reads and writes them,
too."""

from __future__ import annotations

from enum import IntEnum

ABI = 7
"""Version of the C++ module's functions, types and `State`; ``kAbi`` in csrc_channel/module.cpp."""


class State(IntEnum):
    """Names the words of an end; ``State`` in csrc_channel/mtp_ring.h."""

    SEQUENCE = 0  # of the next frame
    HEAD = 1  # position at which the writer puts the next frame
    NUM_SENT = 2
    BYTES_SENT = 3
    SEND_NS = 4
    WAITED_NS = 5  # by the last receive in C++ that returned no frame


def new_state() -> memoryview:
    """Returns the words of `State`, all 0."""
    return memoryview(bytearray(8 * len(State))).cast("Q")
