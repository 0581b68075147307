# SPDX-License-Identifier: Apache-2.0
"""Defines the messages between a forwarder and a remote reader: one byte of kind, then fixed fields, then bytes.

The reader says HELLO (whose frames, and the first it wants), and ACKNOWLEDGE (the first it does not give up yet),
also to show that it lives. The forwarder answers WELCOME (where it begins, and the roster in force there), FRAME,
and BEAT to show that it lives and how its writer is.
"""

from __future__ import annotations

import struct
from enum import IntEnum

BEAT_S = 0.5
"""Who waits shows this often that he lives."""
SILENCE_S = 5.0
"""Who was not heard of for so long is gone."""
FROM_ACKNOWLEDGED = 2**64 - 1
"""The first frame that a reader wants who has none."""


class Kind(IntEnum):
    """Names the first byte of a message."""

    HELLO = 1  # HELLO: version, instance, replica, first frame wanted
    ACKNOWLEDGE = 2  # SEQUENCE
    WELCOME = 3  # WELCOME: first frame, frame that carried the roster; the roster
    FRAME = 4  # the frame
    BEAT = 5  # BEAT: state of the writer, frames it published, its process; next frame to forward
    REFUSED = 6  # text: why
    WHO = 7  # nothing: say HELLO


class WriterState(IntEnum):
    """Names the writer's state as a BEAT message tells it."""

    ALIVE = 0
    DEAD = 1
    CLOSED = 2


VERSION = 2
HELLO = struct.Struct("<BHQIQ")
SEQUENCE = struct.Struct("<BQ")
WELCOME = struct.Struct("<BQQ")
BEAT = struct.Struct("<BBQQQ")
