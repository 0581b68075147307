# SPDX-License-Identifier: Apache-2.0
"""Finds the parts of a frame and the roster that it is under; `frame` says what a frame is."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

import xxhash

from vllm_ascend_ext.mtp_output.errors import FrameError, FrameVersionError
from vllm_ascend_ext.mtp_output.frames.roster import Roster, read_roster
from vllm_ascend_ext.mtp_output.frames.roster_change import change_base, read_change

MAGIC = b"AXMF"
MAJOR, MINOR = 2, 0
HEADER = struct.Struct("<4sHHIHHQIIQQQQ")
SECTION = struct.Struct("<HHI")
TRAILER = struct.Struct("<Q")
ROSTER_SEQUENCE_AT = 56
ROSTER_KIND, CHANGE_KIND = 16, 17


class FrameParts(NamedTuple):
    """Holds the fields of a whole frame's header, and offset and length of each section's body, by kind."""

    instance: int
    replica: int
    step: int
    sequence: int
    sent_ns: int
    roster_sequence: int
    places: Mapping[int, tuple[int, int]]


def split_frame(data: bytes) -> FrameParts:
    """Returns the parts of `data`.

    Raises:
        FrameVersionError: of another major version.
        FrameError: it is not one whole frame with its own checksum.
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
    if TRAILER.unpack_from(data, end)[0] != xxhash.xxh3_64_intdigest(memoryview(data)[:end]):
        raise FrameError(end, "the checksum is wrong")
    places = _section_places(data, num_sections)
    has_roster = ROSTER_KIND in places or CHANGE_KIND in places
    if has_roster and roster_sequence != sequence:
        raise FrameError(
            ROSTER_SEQUENCE_AT, f"frame {sequence} has a roster, and refers to that of {roster_sequence}"
        )
    if ROSTER_KIND in places and CHANGE_KIND in places:
        raise FrameError(places[CHANGE_KIND][0], "a whole roster and a change of one")
    return FrameParts(instance, replica, step, sequence, sent_ns, roster_sequence, places)


def _section_places(data: bytes, num_sections: int) -> dict[int, tuple[int, int]]:
    """Raises FrameError for sections that do not fill the frame, or two of one kind."""
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


def roster_needed(data: bytes, parts: FrameParts) -> int | None:
    """Returns the frame whose roster must be known to read this one, None when it carries a whole one.

    Raises:
        FrameError: a change that is none.
    """
    if ROSTER_KIND in parts.places:
        return None
    if CHANGE_KIND in parts.places:
        at, num_bytes = parts.places[CHANGE_KIND]
        return change_base(data[at : at + num_bytes], at)
    return parts.roster_sequence


def roster_of(data: bytes, parts: FrameParts, known: Roster) -> Roster:
    """Returns the roster that a frame is under, where `known` is that of frame `roster_needed`.

    Raises:
        FrameError: what it carries is no roster.
    """
    for kind in (ROSTER_KIND, CHANGE_KIND):
        if kind in parts.places:
            at, num_bytes = parts.places[kind]
            blob = data[at : at + num_bytes]
            return read_roster(blob, at) if kind == ROSTER_KIND else read_change(blob, known, at)
    return known
