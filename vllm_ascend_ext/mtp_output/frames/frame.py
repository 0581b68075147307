# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes a frame: what one data-parallel replica accepted in one step, target and draft together.

Little-endian. A header of 64 bytes, sections, and a trailer of 8 bytes, the XXH3 (64 bits) of all before it. A
section is u16 kind, u16 zero, u32 bytes of its body, and the body, a multiple of 4 bytes; kinds that a reader does
not know are skipped, so a minor version may add some.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import xxhash

from vllm_ascend_ext.mtp_output.errors import FrameError, UnknownRosterError
from vllm_ascend_ext.mtp_output.frames import rows
from vllm_ascend_ext.mtp_output.frames.parts import (
    CHANGE_KIND,
    HEADER,
    MAGIC,
    MAJOR,
    MINOR,
    ROSTER_KIND,
    ROSTER_SEQUENCE_AT,
    SECTION,
    TRAILER,
    roster_needed,
    roster_of,
    split_frame,
)
from vllm_ascend_ext.mtp_output.frames.roster import Roster, write_roster
from vllm_ascend_ext.mtp_output.frames.roster_change import MAX_CHANGES, write_change
from vllm_ascend_ext.mtp_output.frames.rows import RowsCodec
from vllm_ascend_ext.mtp_output.frames.section import RequestStatus, Section, Source

__all__ = ["Frame", "FrameReader", "FrameWriter", "RequestStatus", "Section", "Source"]


class Frame(NamedTuple):
    """Describes one step of one replica.

    Attributes:
        instance, replica: numbers of the engine, and of its data-parallel replica.
        step: number of the engine's step.
        sequence: position among the frames of (instance, replica), from 0.
        sections: the target's first, then the draft's if there is one.
        sent_ns: time of encoding, by the sender's clock (nanoseconds since the epoch).
    """

    instance: int
    replica: int
    step: int
    sequence: int
    sections: tuple[Section, ...]
    sent_ns: int = 0

    def section(self, source: Source) -> Section | None:
        """Returns the section of `source`, None when the frame has none."""
        return next((section for section in self.sections if section.source == source), None)


class KnownRoster(NamedTuple):
    """Describes the roster that readers know.

    Attributes:
        sequence: the frame that carried it.
        num_changes: changes since the one that was sent whole.
    """

    sequence: int
    num_changes: int
    roster: Roster


class FrameWriter:
    """Encodes the frames of one replica.

    Attributes:
        known: the roster that readers know; None before the first.
    """

    def __init__(self, instance: int, replica: int, codec: RowsCodec) -> None:
        self.instance, self.replica = instance, replica
        self._codec = codec
        self.known: KnownRoster | None = None
        self._written: tuple[int, KnownRoster] | None = None  # the last frame, which may not have been published
        self._roster: Roster | None = None
        self._whole = b""

    def bound(self, sections: tuple[Section, ...]) -> int:
        """Returns the most bytes that a frame of `sections` takes.

        Raises:
            ValueError: ids that no roster can hold.
        """
        num_bytes = HEADER.size + TRAILER.size + SECTION.size + self.roster_bytes(sections)
        for section in sections:
            num_bytes += SECTION.size + rows.bound(len(section.request_ids), section.num_slots, section.top_k)
        return num_bytes

    def roster_bytes(self, sections: tuple[Section, ...]) -> int:
        """Returns the bytes of the whole roster of `sections`. Raises what `bound` does."""
        roster = tuple((int(section.source), section.request_ids) for section in sections)
        if roster != self._roster:  # unchanged ids are mostly the same tuple, which is quick
            self._whole = write_roster(roster)
            self._roster = roster
        return len(self._whole)

    def write(self, view: memoryview, begin: int, step: int, sequence: int, sections: tuple[Section, ...]) -> int:
        """Writes a frame to `view` at `begin`, where `bound` bytes are free; returns its length.

        The frames of higher sequences refer to its roster. One that was not published after all is written again,
        under the same sequence.

        Raises:
            ValueError: a section with impossible counts or statuses.
        """
        if self._written is not None and self._written[0] < sequence:
            self.known = self._written[1]
        self._written = None
        at, num_sections = begin + HEADER.size, len(sections)
        kind, blob, known = self._roster_part(sequence, sections)
        if blob:
            num_sections += 1
            SECTION.pack_into(view, at, kind, 0, len(blob))
            at += SECTION.size
            view[at : at + len(blob)] = blob
            at += len(blob)
        for section in sections:
            num_bytes = self._codec.write(section, view, at + SECTION.size)
            SECTION.pack_into(view, at, section.source, 0, num_bytes)
            at += SECTION.size + num_bytes
        length = at + TRAILER.size - begin
        HEADER.pack_into(
            view,
            begin,
            *(MAGIC, MAJOR, MINOR, length, num_sections, 0, self.instance, self.replica, 0),
            *(step, sequence, time.time_ns(), known.sequence),
        )
        TRAILER.pack_into(view, at, xxhash.xxh3_64_intdigest(view[begin:at]))
        self._written = sequence, known
        return length

    def _roster_part(self, sequence: int, sections: tuple[Section, ...]) -> tuple[int, bytes, KnownRoster]:
        """Returns kind and body of the roster's section, empty when readers know the roster, and what they then
        know."""
        self.roster_bytes(sections)
        roster, known = self._roster, self.known
        assert roster is not None
        if known is not None and known.roster == roster:
            return 0, b"", known
        if known is not None and known.num_changes < MAX_CHANGES:
            change = write_change(known.sequence, known.roster, roster)
            if len(change) < len(self._whole):
                return CHANGE_KIND, change, KnownRoster(sequence, known.num_changes + 1, roster)
        return ROSTER_KIND, self._whole, KnownRoster(sequence, 0, roster)

    def adopt(self, known: KnownRoster) -> None:
        """Takes over what another writer of this replica has sent since."""
        self.known, self._written = known, None

    @property
    def last_known(self) -> KnownRoster | None:
        """Returns what readers know once the frame that was written last is published."""
        return self.known if self._written is None else self._written[1]


class FrameReader:
    """Decodes frames of any sender; keeps the roster in force.

    Attributes:
        roster_sequence: the frame that carried the roster in force; -1 before the first.
        roster: the roster in force.
    """

    def __init__(self, codec: RowsCodec) -> None:
        self._codec = codec
        self.roster_sequence = -1
        self.roster: Roster = ()

    def adopt(self, sequence: int, roster: Roster) -> None:
        """Takes over a roster that another reader knows."""
        self.roster_sequence, self.roster = sequence, roster

    def read(self, data: bytes) -> Frame:
        """Decodes `data`, which must be one whole frame.

        Raises:
            FrameVersionError: of another major version.
            FrameError: it is damaged, or refers to a roster that is not in force. Nothing has changed then.
        """
        parts = split_frame(data)
        needed = roster_needed(data, parts)
        if needed is not None and needed != self.roster_sequence:
            raise UnknownRosterError(ROSTER_SEQUENCE_AT, needed)
        roster = roster_of(data, parts, self.roster)
        ids = dict(roster)
        sections = tuple(
            self._read_rows(data, source, *parts.places[source], ids.get(source))
            for source in Source
            if source in parts.places
        )
        self.roster, self.roster_sequence = roster, parts.roster_sequence
        return Frame(parts.instance, parts.replica, parts.step, parts.sequence, sections, parts.sent_ns)

    def _read_rows(
        self, data: bytes, source: Source, at: int, num_bytes: int, request_ids: tuple[str, ...] | None
    ) -> Section:
        head = rows.read_head(data, at, num_bytes)
        if request_ids is None or len(request_ids) != head.batch:
            raise FrameError(at, f"{head.batch} rows, and a roster of {request_ids and len(request_ids)}")
        packed_BW = self._codec.read(data, at, head)
        return Section(source, request_ids, packed_BW, head.num_slots, head.top_k)
