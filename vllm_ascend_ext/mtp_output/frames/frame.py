# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes a frame: what one data-parallel replica accepted in one step, target and draft together.

Little-endian. A header of 64 bytes, sections, and a trailer of 8 bytes, the XXH64 of all before it. A section is
u16 kind, u16 zero, u32 bytes of its body, and the body, a multiple of 4 bytes; kinds that a reader does not know
are skipped, so a minor version may add some.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

import xxhash

from vllm_ascend_ext.mtp_output.errors import FrameError, FrameVersionError, UnknownRosterError
from vllm_ascend_ext.mtp_output.frames import rows
from vllm_ascend_ext.mtp_output.frames.roster import IdsCodec, Roster, read_roster, write_roster
from vllm_ascend_ext.mtp_output.frames.rows import RowsCodec
from vllm_ascend_ext.mtp_output.frames.section import RequestStatus, Section, Source

__all__ = ["Frame", "FrameReader", "FrameWriter", "RequestStatus", "Section", "Source"]

MAGIC = b"AXMF"
MAJOR, MINOR = 1, 0
HEADER = struct.Struct("<4sHHIHHQIIQQQQ")
SECTION = struct.Struct("<HHI")
TRAILER = struct.Struct("<Q")
_ROSTER_SEQUENCE_AT = 56
ROSTER_KIND = 16


class FrameCodec(NamedTuple):
    """Bundles the codecs that write and read the parts of frames."""

    rows: RowsCodec
    ids: IdsCodec


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


class FrameWriter:
    """Encodes the frames of one replica.

    Attributes:
        roster_sequence: the frame that carried the roster in force.
    """

    def __init__(self, instance: int, replica: int, codec: FrameCodec) -> None:
        self.instance, self.replica = instance, replica
        self._codec = codec
        self._roster: Roster = ()
        self._blob = b""
        self._sent: Roster | None = None  # the roster that a reader knows
        self.roster_sequence = 0

    def bound(self, sections: tuple[Section, ...]) -> int:
        """Returns the most bytes that a frame of `sections` takes.

        Raises:
            ValueError: ids that no roster can hold.
        """
        self._refresh_roster(sections)
        num_bytes = HEADER.size + TRAILER.size + SECTION.size + len(self._blob)
        for section in sections:
            num_bytes += SECTION.size + rows.bound(len(section.request_ids), section.num_slots, section.top_k)
        return num_bytes

    def write(self, view: memoryview, begin: int, step: int, sequence: int, sections: tuple[Section, ...]) -> int:
        """Writes a frame to `view` at `begin`, where `bound` bytes are free; returns its length.

        The frames of higher sequences refer to its roster. One that was not published after all is written again,
        under the same sequence.

        Raises:
            ValueError: a section with impossible counts or statuses.
        """
        self._refresh_roster(sections)
        at, num_sections = begin + HEADER.size, len(sections)
        roster_sequence = self.roster_sequence
        if self._sent is not self._roster or self.roster_sequence == sequence:
            roster_sequence, num_sections = sequence, num_sections + 1
            SECTION.pack_into(view, at, ROSTER_KIND, 0, len(self._blob))
            at += SECTION.size
            view[at : at + len(self._blob)] = self._blob
            at += len(self._blob)
        for section in sections:
            num_bytes = self._codec.rows.write(section, view, at + SECTION.size)
            SECTION.pack_into(view, at, section.source, 0, num_bytes)
            at += SECTION.size + num_bytes
        length = at + TRAILER.size - begin
        HEADER.pack_into(
            view,
            begin,
            *(MAGIC, MAJOR, MINOR, length, num_sections, 0, self.instance, self.replica, 0),
            *(step, sequence, time.time_ns(), roster_sequence),
        )
        TRAILER.pack_into(view, at, xxhash.xxh64_intdigest(view[begin:at]))
        self._sent, self.roster_sequence = self._roster, roster_sequence
        return length

    def _refresh_roster(self, sections: tuple[Section, ...]) -> None:
        """Brings `_roster` and `_blob` up to date. Unchanged ids are mostly the same tuple, which is quick."""
        known = self._roster
        if len(known) == len(sections):
            for section, (kind, request_ids) in zip(sections, known, strict=True):
                if section.source != kind or (
                    section.request_ids is not request_ids and section.request_ids != request_ids
                ):
                    break
            else:
                return
        roster = tuple((int(section.source), section.request_ids) for section in sections)
        self._blob = write_roster(roster, self._codec.ids)
        self._roster = roster


class FrameReader:
    """Decodes frames of any sender; keeps the roster in force.

    Attributes:
        roster_sequence: the frame that carried the roster in force; -1 before the first.
        roster_blob: the roster in force as it was written.
    """

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
        self.roster_sequence = -1
        self.roster_blob = b""
        self._ids: dict[int, tuple[str, ...]] = {}

    def adopt(self, sequence: int, blob: bytes) -> None:
        """Takes over a roster that another reader kept.

        Raises:
            FrameError: it is no roster.
        """
        self._ids = dict(read_roster(blob, self._codec.ids))
        self.roster_sequence, self.roster_blob = sequence, blob

    def read(self, data: bytes) -> Frame:
        """Decodes `data`, which must be one whole frame.

        Raises:
            FrameVersionError: of another major version.
            FrameError: it is damaged, or refers to a roster that is not in force. Nothing has changed then.
        """
        step, sequence, sent_ns, roster_sequence, instance, replica, num_sections = read_header(data)
        places = section_places(data, num_sections)
        ids, blob = self._ids, None
        if ROSTER_KIND in places:
            at, num_bytes = places[ROSTER_KIND]
            blob = data[at : at + num_bytes]
            ids = dict(read_roster(blob, self._codec.ids, at))
            if roster_sequence != sequence:
                raise FrameError(
                    _ROSTER_SEQUENCE_AT, f"frame {sequence} has a roster, and refers to that of {roster_sequence}"
                )
        elif roster_sequence != self.roster_sequence:
            raise UnknownRosterError(_ROSTER_SEQUENCE_AT, roster_sequence)
        sections = tuple(
            self._read_rows(data, source, *places[source], ids.get(source))
            for source in Source
            if source in places
        )
        if blob is not None:
            self._ids, self.roster_sequence, self.roster_blob = ids, sequence, blob
        return Frame(instance, replica, step, sequence, sections, sent_ns)

    def _read_rows(
        self, data: bytes, source: Source, at: int, num_bytes: int, request_ids: tuple[str, ...] | None
    ) -> Section:
        head = rows.read_head(data, at, num_bytes)
        if request_ids is None or len(request_ids) != head.batch:
            raise FrameError(at, f"{head.batch} rows, and a roster of {request_ids and len(request_ids)}")
        packed_BW = self._codec.rows.read(data, at, head)
        return Section(source, request_ids, packed_BW, head.num_slots, head.top_k)


def read_header(data: bytes) -> tuple[int, int, int, int, int, int, int]:
    """Returns step, sequence, sent_ns, roster_sequence, instance, replica and number of sections of a whole frame.

    Raises:
        FrameVersionError, FrameError: what `FrameReader.read` says; the checksum is right otherwise.
    """
    if len(data) < HEADER.size + TRAILER.size:
        raise FrameError(len(data), f"{len(data)} bytes are no frame")
    fields = HEADER.unpack_from(data)
    magic, major, _, length, num_sections, _, instance, replica, _ = fields[:9]
    step, sequence, sent_ns, roster_sequence = fields[9:]
    if magic != MAGIC:
        raise FrameError(0, f"magic {magic!r}, not {MAGIC!r}")
    if major != MAJOR:
        raise FrameVersionError(4, f"major version {major}; this reader knows {MAJOR}")
    if length != len(data):
        raise FrameError(8, f"a frame of {length} bytes in {len(data)}")
    end = length - TRAILER.size
    if TRAILER.unpack_from(data, end)[0] != xxhash.xxh64_intdigest(memoryview(data)[:end]):
        raise FrameError(end, "the checksum is wrong")
    return step, sequence, sent_ns, roster_sequence, instance, replica, num_sections


def frame_sequence(data: bytes) -> int:
    """Returns the sequence of a whole frame. Raises what `read_header` does."""
    return read_header(data)[1]


def inline_roster(data: bytes) -> bytes | None:
    """Returns the roster that a whole frame carries, if it does. Raises what `FrameReader.read` says."""
    place = section_places(data, read_header(data)[-1]).get(ROSTER_KIND)
    return data[place[0] : place[0] + place[1]] if place else None


def section_places(data: bytes, num_sections: int) -> dict[int, tuple[int, int]]:
    """Maps the kind of each section to the offset and the length of its body.

    Raises:
        FrameError: sections that do not fill the frame, or two of one kind.
    """
    places: dict[int, tuple[int, int]] = {}
    at, end = HEADER.size, len(data) - TRAILER.size
    for _ in range(num_sections):
        if at + SECTION.size > end:
            raise FrameError(at, f"the frame ends within the head of a section, {num_sections} are announced")
        kind, _, num_bytes = SECTION.unpack_from(data, at)
        begin = at + SECTION.size
        if num_bytes % 4 or begin + num_bytes > end:
            raise FrameError(at, f"a section of {num_bytes} bytes, {end - begin} are left")
        if kind in places:
            raise FrameError(at, f"a second section of kind {kind}")
        places[kind] = begin, num_bytes
        at = begin + num_bytes
    if at != end:
        raise FrameError(at, f"{end - at} bytes after the last section")
    return places
