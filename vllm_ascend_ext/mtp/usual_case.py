# SPDX-License-Identifier: Apache-2.0
"""The usual case, one call into C++ a frame: ids and shapes as in the frame before, room in the ring, nothing wrong.

Each says so when a frame is not of that kind; the code in Python then does all of it, and tells the next one here.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from vllm_ascend_ext.mtp.end_state import EndState, State
from vllm_ascend_ext.mtp.frame import Frame
from vllm_ascend_ext.mtp.native import records_of
from vllm_ascend_ext.mtp.section import Int32Array, Section

_NOTHING = 1
_Ids = tuple[str, ...]


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
        return code == 0


class UsualReceive:
    """Receives like the frame before."""

    def __init__(self, functions: Any, state: EndState) -> None:
        self._receive, self._words, self._address = functions.ascend_ext_receive, state.words, state.address
        self._state = state
        self._identity = state.words[State.INSTANCE], state.words[State.REPLICA]
        self._sections: tuple[Section, ...] = ()
        self._memory: list[Any] = []  # of the next records, so that it can be allocated before they are there

    def learn(self, roster_sequence: int, sections: tuple[Section, ...]) -> None:
        """Takes `sections` for what is usual."""
        self._state.expect(roster_sequence, sections)
        self._sections = sections
        self._memory = []

    def receive(self) -> Frame | bool:
        """The next frame; True when there is none, False when it is not usual. What was read before is acknowledged.

        Needs to have learned, and the roster in force to be kept.
        """
        sections = self._sections
        if not self._memory:
            self._allocate()
        records, pointers = self._memory
        code = self._receive(self._address, *pointers)
        if code:
            return bool(code == _NOTHING)
        self._memory = []
        filled = tuple(
            Section(section.source, section.request_ids, packed_BW, section.num_slots, section.top_k)
            for section, packed_BW in zip(sections, records, strict=True)
        )
        words = self._words
        sequence = words[State.SEQUENCE] - 1
        return Frame(*self._identity, words[State.STEP], sequence, filled, words[State.SENT_NS])

    def _allocate(self) -> None:
        records: list[Int32Array] = [np.empty_like(section.packed_BW) for section in self._sections]
        pointers: list[ctypes.c_int32 | None] = [records_of(packed_BW) for packed_BW in records]
        self._memory = [records, [*pointers, None][:2]]


def _is_like(section: Section, known: Section | None) -> bool:
    return (
        known is not None
        and (section.request_ids is known.request_ids or section.request_ids == known.request_ids)
        and section.num_slots == known.num_slots
        and section.top_k == known.top_k
    )
