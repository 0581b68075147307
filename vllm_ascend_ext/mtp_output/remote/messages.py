# SPDX-License-Identifier: Apache-2.0
"""Defines the messages between a forwarder and a remote reader: one byte of kind, then fixed fields, then bytes.

The reader sends HELLO (the ring it wants, and the first frame), and ACKNOWLEDGE (the first frame that it does not
give up yet), also to show that it lives. The forwarder answers WELCOME (the frame at which it begins, and the
roster in force there), FRAME, and BEAT, which shows that the forwarder lives and whether its writer does.
"""

from __future__ import annotations

import struct
from enum import IntEnum

BEAT_S = 0.5
"""Seconds between two messages of an end that waits, by which it shows that it lives."""
SILENCE_S = 5.0
"""Seconds without a message after which the other end is taken for dead."""
FROM_ACKNOWLEDGED = 2**64 - 1
"""The "first frame wanted" of a reader that has read none: the first one that was not acknowledged."""


class Kind(IntEnum):
    """Names the first byte of a message."""

    HELLO = 1  # HELLO: version, instance, replica, first frame wanted
    ACKNOWLEDGE = 2  # SEQUENCE
    WELCOME = 3  # WELCOME: first frame, frame that carried the roster; the roster
    FRAME = 4  # the frame
    BEAT = 5  # BEAT: state of the writer, frames it published, its process; next frame to forward
    REFUSED = 6  # text: why
    WHO = 7  # no field: asks a reader that the forwarder does not know to say HELLO


class WriterState(IntEnum):
    """Names the writer's state as a BEAT message tells it."""

    ALIVE = 0
    DEAD = 1
    CLOSED = 2


VERSION = 3
HELLO = struct.Struct("<BHQIQ")
SEQUENCE = struct.Struct("<BQ")
WELCOME = struct.Struct("<BQQ")
BEAT = struct.Struct("<BBQQQ")
