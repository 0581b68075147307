# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between the sender of accepted tokens and their reader. Every error says who and where."""

from __future__ import annotations


class FrameError(ValueError):
    """A frame cannot be read; nothing of it was used.

    Attributes:
        offset: the byte of the frame at which it was found.
    """

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"bad frame at byte {offset}: {what}")
        self.offset = offset


class FrameVersionError(FrameError):
    """The frame is of another major version than this reader."""


class UnknownRosterError(FrameError):
    """The frame refers to a roster that this reader has not seen.

    Attributes:
        sequence: of the frame that carried the roster.
    """

    def __init__(self, offset: int, sequence: int) -> None:
        super().__init__(offset, f"it refers to the roster of frame {sequence}, which is not known")
        self.sequence = sequence


class ChannelError(RuntimeError):
    """The channel cannot be used, or no longer."""


class ChannelSizeError(ChannelError):
    """The channel cannot be as large as asked for, or a frame is larger than the channel was made for."""


class ChannelInUseError(ChannelError):
    """Another process that lives is the writer, or the reader, already."""


class ChannelClosedError(ChannelError):
    """The writer has closed the channel, and everything in it has been read."""


class SequenceError(ChannelError):
    """Frames are missing, or come twice, or come from somebody else."""


class ChannelTimeoutError(ChannelError, TimeoutError):
    """A deadline has passed. The subclasses say who did not do what."""


class ChannelFullError(ChannelTimeoutError):
    """The reader lives and does not keep up."""


class ReaderGoneError(ChannelTimeoutError):
    """The channel is full, and its reader is dead or has never come."""


class NoFrameError(ChannelTimeoutError):
    """The writer lives, or has not come yet, and sent nothing."""


class WriterGoneError(ChannelError):
    """The writer died without closing the channel, and everything it sent has been read."""
