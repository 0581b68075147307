# SPDX-License-Identifier: Apache-2.0
"""The usual case in one call into C++: ids and shapes as in the frame before, room in the ring, nothing wrong.

Each says so when a frame is not of that kind; the code in Python then does all of it, and tells the next one here.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from vllm_ascend_ext.mtp.channel_reader import RingReader
from vllm_ascend_ext.mtp.end_state import EndState, State
from vllm_ascend_ext.mtp.frame import Frame
from vllm_ascend_ext.mtp.native import records_of
from vllm_ascend_ext.mtp.section import Int32Array, Section
from vllm_ascend_ext.mtp.wakeup import SLICE_S

_NOTHING = 1
STEP, SEQUENCE, SENT_NS = int(State.STEP), int(State.SEQUENCE), int(State.SENT_NS)  # quicker to index with


class UsualSend:
    """Sends like the frame before."""

    def __init__(self, functions: Any, state: EndState) -> None:
        self._send, self._state, self._address = functions.ascend_ext_send, state, state.address
        self._target: Section | None = None
        self._draft: Section | None = None

    def learn(self, roster_sequence: int, sections: tuple[Section, ...], bound: int) -> None:
        """Takes `sections`, of which a frame takes `bound` bytes at most, for what is usual."""
        self._state.expect(roster_sequence, sections)
        self._state.words[State.BOUND] = bound
        self._target, self._draft = sections if len(sections) == 2 else (sections[0], None)

    def send(self, step: int, target: Section, draft: Section | None) -> bool:
        """Whether the frame was usual, and is sent."""
        if not _is_like(target, self._target):
            return False
        if draft is None:
            if self._draft is not None:
                return False
            code = self._send(self._address, step, records_of(target.packed_BW), None)
        else:
            if not _is_like(draft, self._draft):
                return False
            code = self._send(self._address, step, records_of(target.packed_BW), records_of(draft.packed_BW))
        return bool(code == 0)


class UsualReceive:
    """Receives like the frame before."""

    def __init__(self, functions: Any, ring: RingReader) -> None:
        state = ring.state
        self._receive, self._receive_within = functions.ascend_ext_receive, functions.ascend_ext_receive_within
        self._ring, self._state, self._words, self._address = ring, state, state.words, state.address
        self._identity = state.words[State.INSTANCE], state.words[State.REPLICA]
        self._sections: tuple[Section, ...] = ()
        self._shapes: list[tuple[int, ...]] = []
        self._memory: list[Int32Array] = []  # for the next records; used again when none came
        self._pointers: list[ctypes.c_int32 | None] = []

    def learn(self, roster_sequence: int, sections: tuple[Section, ...]) -> None:
        """Takes `sections` for what is usual."""
        self._state.expect(roster_sequence, sections)
        self._sections = sections
        self._shapes = [section.packed_BW.shape for section in sections]
        self._memory = []

    def receive(self, timeout_s: float) -> Frame | None:
        """The next frame, None when it is not usual. Acknowledges what was read before.

        Needs to have learned, and the roster in force to be kept.

        Raises:
            NoFrameError, ChannelClosedError, WriterGoneError: what `RingReader.wait` says.
        """
        if not self._memory:
            self._memory = [np.empty(shape, np.int32) for shape in self._shapes]
            self._pointers = [*map(records_of, self._memory), None][:2]
        code = self._receive(self._address, *self._pointers)
        if code == _NOTHING:
            code = self._await(timeout_s)
        if code:
            return None
        records, self._memory = self._memory, []
        words, (instance, replica) = self._words, self._identity
        sections = tuple(map(_filled, self._sections, records))
        return Frame(instance, replica, words[STEP], words[SEQUENCE] - 1, sections, words[SENT_NS])

    def _await(self, timeout_s: float) -> int:
        begin, slice_s = time.monotonic(), min(max(timeout_s, 0.0), SLICE_S)
        code: int = self._receive_within(self._address, *self._pointers, int(slice_s * 1e9))
        if code == _NOTHING:
            self._ring.wait(timeout_s, begin)
            code = self._receive(self._address, *self._pointers)
        return code


def _filled(like: Section, packed_BW: Int32Array) -> Section:
    source, request_ids, _, num_slots, top_k = like
    return Section(source, request_ids, packed_BW, num_slots, top_k)


def _is_like(section: Section, known: Section | None) -> bool:
    return (
        known is not None
        and section.source == known.source
        and (section.request_ids is known.request_ids or section.request_ids == known.request_ids)
        and section.num_slots == known.num_slots
        and section.top_k == known.top_k
    )
