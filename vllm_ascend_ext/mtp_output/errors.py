# SPDX-License-Identifier: Apache-2.0
"""Defines the errors between the sender of accepted tokens and their reader. Every error says who and where."""

from __future__ import annotations


class FrameError(ValueError):
    """Reports a frame that cannot be read; nothing of it was used.

    Attributes:
        offset: the byte of the frame at which it was found.
    """

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"bad frame at byte {offset}: {what}")
        self.offset = offset


class FrameVersionError(FrameError):
    """Reports a frame of another major version than this reader's."""


class UnknownRosterError(FrameError):
    """Reports a frame that refers to a roster which this reader has not seen.

    Attributes:
        sequence: the frame that carried the roster.
    """

    def __init__(self, offset: int, sequence: int) -> None:
        super().__init__(offset, f"it refers to the roster of frame {sequence}, which is not known")
        self.sequence = sequence


class ChannelError(RuntimeError):
    """Reports that the channel (a ring, or the connection to a ring on another host) cannot be used."""


class ChannelSizeError(ChannelError):
    """Reports that the channel cannot be as large as asked for, or that a frame is larger than the channel was
    made for."""


class ChannelInUseError(ChannelError):
    """Reports that another process that lives is the writer, or the reader, already."""


class ChannelClosedError(ChannelError):
    """Reports that the writer has closed the channel, and everything in it has been read."""


class SequenceError(ChannelError):
    """Reports frames that are missing, come twice or come from another sender."""


class ChannelTimeoutError(ChannelError, TimeoutError):
    """Reports that a deadline has passed. The subclasses say who did not do what."""


class ChannelFullError(ChannelTimeoutError):
    """Reports that the reader lives and does not keep up."""


class ReaderGoneError(ChannelTimeoutError):
    """Reports that the channel is full, and its reader is dead or has never come."""


class NoFrameError(ChannelTimeoutError):
    """Reports that the writer lives, or has not come yet, and sent nothing."""


class WriterGoneError(ChannelError):
    """Reports that the writer died without closing the channel, and everything it sent has been read."""
