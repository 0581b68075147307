# SPDX-License-Identifier: Apache-2.0
"""What one end of a ring knows, in words that csrc_host/mtp_channel.cpp reads and writes, too."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from vllm_ascend_ext.mtp.ring_file import RingFile, Word
from vllm_ascend_ext.mtp.section import Section

ABI = 3
"""Of the library's functions and of `State`; ``kAbi`` in mtp_channel.cpp."""


class State(IntEnum):
    """Words of `EndState`; ``End`` in mtp_channel.cpp. TARGET and DRAFT are three each: requests, slots, top-k."""

    WORDS_ADDRESS = 0
    FRAMES_ADDRESS = 1
    CAPACITY = 2
    NUM_DESCRIPTORS = 3
    MAX_FRAME_BYTES = 4
    INSTANCE = 5
    REPLICA = 6
    SEQUENCE = 7
    ROSTER_SEQUENCE = 8
    TARGET = 9
    DRAFT = 12
    HEAD = 15
    BOUND = 16
    BYTES_SENT = 17
    STEP = 18
    SENT_NS = 19


NUM_WORDS = len(State) + 4


class EndState:
    """The state of an end of `file`.

    Attributes:
        words: see `State`.
        address: of the first of them.
    """

    def __init__(self, file: RingFile) -> None:
        self._memory = (ctypes.c_uint64 * NUM_WORDS)()
        self.address = ctypes.addressof(self._memory)
        self.words = memoryview(self._memory).cast("B").cast("Q")
        size = file.size
        for state, value in {
            State.WORDS_ADDRESS: file.address,
            State.FRAMES_ADDRESS: file.frames_address,
            State.CAPACITY: size.capacity,
            State.NUM_DESCRIPTORS: size.num_descriptors,
            State.MAX_FRAME_BYTES: size.max_frame_bytes,
            State.INSTANCE: file.words[Word.INSTANCE],
            State.REPLICA: file.words[Word.REPLICA],
        }.items():
            self.words[state] = value

    def expect(self, roster_sequence: int, sections: tuple[Section, ...]) -> None:
        """Says that the next frame is like `sections`, under the same roster."""
        self.words[State.ROSTER_SEQUENCE] = roster_sequence
        for word in range(State.TARGET, State.HEAD):
            self.words[word] = 0
        for section in sections:
            at = State.TARGET + 3 * (section.source - 1)
            for index, value in enumerate((len(section.request_ids), section.num_slots, section.top_k)):
                self.words[at + index] = value
