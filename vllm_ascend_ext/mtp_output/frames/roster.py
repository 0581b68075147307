# SPDX-License-Identifier: Apache-2.0
"""Encodes rosters, which say whose rows the sections of a frame hold. A roster is sent when it changes, whole or
as its change (`roster_change`), and referred to otherwise.

Written as: number of lists (one a rows section), then for each list: kind of its section, number of ids (or
`SAME_AS_FIRST`), bytes of their text, lengths of the ids (u16, padded to 4 bytes), their text (UTF-8, padded
likewise).
"""

from __future__ import annotations

import struct
from itertools import accumulate

import numpy as np

from vllm_ascend_ext.mtp_output.errors import FrameError

MAX_ID_BYTES = 2**16 - 1
_COUNT = struct.Struct("<I")
_LIST = struct.Struct("<III")
SAME_AS_FIRST = 2**32 - 1

Roster = tuple[tuple[int, tuple[str, ...]], ...]
"""The kind and the request ids of each rows section."""


def write_roster(roster: Roster) -> bytes:
    """Encodes a roster.

    Raises:
        ValueError: an id longer than `MAX_ID_BYTES`, or twice in a list.
    """
    parts = [_COUNT.pack(len(roster))]
    for kind, request_ids in roster:
        if parts[1:] and request_ids == roster[0][1]:
            parts.append(_LIST.pack(kind, SAME_AS_FIRST, 0))
            continue
        if len(set(request_ids)) != len(request_ids):
            raise ValueError("a request has one row in a section; an id comes twice")
        num_bytes, body = encode_ids(request_ids)
        parts += [_LIST.pack(kind, len(request_ids), num_bytes), body]
    return b"".join(parts)


def read_roster(blob: bytes, start: int = 0) -> Roster:
    """Decodes a roster.

    Args:
        start: the offset of `blob` in its frame, for errors.

    Raises:
        FrameError: lengths that do not fit, text that is not UTF-8, or an id twice in a list.
    """
    if len(blob) < _COUNT.size:
        raise FrameError(start, f"a roster of {len(blob)} bytes")
    (num_lists,) = _COUNT.unpack_from(blob)
    lists: list[tuple[int, tuple[str, ...]]] = []
    at, kinds = _COUNT.size, set[int]()
    while len(lists) < num_lists:
        entry, at = _read_list(blob, at, start, lists)
        if entry[0] in kinds:
            raise FrameError(start + at, f"two lists for sections of kind {entry[0]}")
        lists.append(entry)
        kinds.add(entry[0])
    if at != len(blob):
        raise FrameError(start + at, f"{len(blob) - at} bytes after the end of the roster")
    return tuple(lists)


def _read_list(
    blob: bytes, at: int, start: int, before: list[tuple[int, tuple[str, ...]]]
) -> tuple[tuple[int, tuple[str, ...]], int]:
    if at + _LIST.size > len(blob):
        raise FrameError(start + at, "the roster ends within the head of a list")
    kind, count, num_bytes = _LIST.unpack_from(blob, at)
    if count == SAME_AS_FIRST and num_bytes == 0 and before:
        return (kind, before[0][1]), at + _LIST.size
    end = at + _LIST.size + padded_size(2 * count) + padded_size(num_bytes)
    if end > len(blob):
        raise FrameError(start + at, f"a list of {count} ids and {num_bytes} bytes does not fit its roster")
    request_ids = read_ids(blob, at + _LIST.size, count, num_bytes, start)
    check_distinct(request_ids, start + at)
    return (kind, request_ids), end


def encode_ids(request_ids: tuple[str, ...]) -> tuple[int, bytes]:
    """Returns the bytes of the text of ids, without padding, and their lengths and text.

    Raises:
        ValueError: an id longer than `MAX_ID_BYTES`, or one that has no UTF-8.
    """
    texts = [request_id.encode() for request_id in request_ids]
    lengths = [len(text) for text in texts]
    if max(lengths, default=0) > MAX_ID_BYTES:
        raise ValueError(f"a request id has at most {MAX_ID_BYTES} bytes, not {max(lengths)}")
    text = b"".join(texts)
    return len(text), _padded(np.array(lengths, "<u2").tobytes()) + _padded(text)


def read_ids(blob: bytes, at: int, count: int, num_bytes: int, start: int) -> tuple[str, ...]:
    """Reads the `count` ids whose lengths are at `at` and whose text has `num_bytes`; all of it is in `blob`.

    Args:
        start: the offset of `blob` in its frame, for errors.

    Raises:
        FrameError: lengths of another sum, or text that is not UTF-8.
    """
    text_at = at + padded_size(2 * count)
    lengths = np.frombuffer(blob, "<u2", count, at).tolist()
    if sum(lengths) != num_bytes:
        raise FrameError(start + at, f"ids of {sum(lengths)} bytes in a text of {num_bytes}")
    text = blob[text_at : text_at + num_bytes]
    ends = accumulate(lengths)
    try:
        spans = zip(ends, lengths, strict=True)
        return tuple(text[stop - length : stop].decode() for stop, length in spans)
    except UnicodeDecodeError as error:
        raise FrameError(start + text_at, f"a request id is not UTF-8: {error}") from error


def check_distinct(request_ids: tuple[str, ...], at: int) -> None:
    """Checks the ids of a list, which is at `at` in its frame.

    Raises:
        FrameError: one comes twice.
    """
    if len(set(request_ids)) != len(request_ids):
        raise FrameError(at, "a request id comes twice in a list")


def padded_size(num_bytes: int) -> int:
    """Returns `num_bytes` up to the next multiple of 4."""
    return (num_bytes + 3) // 4 * 4


def _padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % 4)
