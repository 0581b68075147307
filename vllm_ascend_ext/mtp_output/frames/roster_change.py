# SPDX-License-Identifier: Apache-2.0
"""Encodes what changed between two rosters: where a few requests of a batch come and go, only their ids are sent.

Written as: the frame whose roster this changes (u64), number of lists, zero, then for each list: kind of its
section, number of ids, number of ids that changed (or `SAME_AS_FIRST`), bytes of their text, rows of those ids
(u32, ascending), their lengths (u16, padded to 4 bytes), their text (UTF-8, padded likewise). At all other rows
the ids are those of the list of the same kind before.
"""

from __future__ import annotations

import struct

import numpy as np

from vllm_ascend_ext.mtp_output.errors import FrameError
from vllm_ascend_ext.mtp_output.frames.roster import (
    SAME_AS_FIRST,
    Roster,
    check_distinct,
    encode_ids,
    padded_size,
    read_ids,
)

MAX_CHANGES = 63
"""Changes that may follow a whole roster: who looks on and has missed one knows the batch again soon."""
_HEAD = struct.Struct("<QII")
_LIST = struct.Struct("<IIII")


def write_change(base: int, before: Roster, after: Roster) -> bytes:
    """Encodes the change from `before`, the roster of frame `base`, to `after`, whose ids `write_roster` takes."""
    known = dict(before)
    parts = [_HEAD.pack(base, len(after), 0)]
    for kind, request_ids in after:
        if parts[1:] and request_ids == after[0][1]:
            parts.append(_LIST.pack(kind, 0, SAME_AS_FIRST, 0))
            continue
        old = known.get(kind, ())
        rows = [row for row, request_id in enumerate(request_ids) if row >= len(old) or request_id != old[row]]
        num_bytes, body = encode_ids(tuple(request_ids[row] for row in rows))
        parts += [
            _LIST.pack(kind, len(request_ids), len(rows), num_bytes),
            np.array(rows, "<u4").tobytes(),
            body,
        ]
    return b"".join(parts)


def change_base(blob: bytes, start: int = 0) -> int:
    """Returns the frame whose roster `blob` changes.

    Args:
        start: the offset of `blob` in its frame, for errors.

    Raises:
        FrameError: it is no change.
    """
    if len(blob) < _HEAD.size:
        raise FrameError(start, f"a change of a roster of {len(blob)} bytes")
    base: int = _HEAD.unpack_from(blob)[0]
    return base


def read_change(blob: bytes, before: Roster, start: int = 0) -> Roster:
    """Decodes a roster from its change and `before`, the roster of frame `change_base`.

    Args:
        start: the offset of `blob` in its frame, for errors.

    Raises:
        FrameError: rows, lengths or texts that do not fit, or an id twice in a list.
    """
    change_base(blob, start)
    _, num_lists, zero = _HEAD.unpack_from(blob)
    if zero:
        raise FrameError(start + 12, f"{zero} where there must be 0")
    known = dict(before)
    lists: dict[int, tuple[str, ...]] = {}
    at = _HEAD.size
    for _ in range(num_lists):
        if at + _LIST.size > len(blob):
            raise FrameError(start + at, "the change ends within the head of a list")
        kind, count, num_changed, num_bytes = _LIST.unpack_from(blob, at)
        if kind in lists:
            raise FrameError(start + at, f"two lists for sections of kind {kind}")
        at += _LIST.size
        if num_changed == SAME_AS_FIRST and not (count or num_bytes) and lists:
            lists[kind] = next(iter(lists.values()))
            continue
        end = at + 4 * num_changed + padded_size(2 * num_changed) + padded_size(num_bytes)
        if end > len(blob):
            raise FrameError(start + at, f"{num_changed} ids of {num_bytes} bytes do not fit their change")
        rows = np.frombuffer(blob, "<u4", num_changed, at).tolist()
        new = read_ids(blob, at + 4 * num_changed, num_changed, num_bytes, start)
        lists[kind] = _changed(known.get(kind, ()), count, rows, new, start + at)
        at = end
    if at != len(blob):
        raise FrameError(start + at, f"{len(blob) - at} bytes after the end of the change")
    return tuple(lists.items())


def _changed(old: tuple[str, ...], count: int, rows: list[int], new: tuple[str, ...], at: int) -> tuple[str, ...]:
    if count > len(old) + len(rows):
        raise FrameError(at, f"{count} ids of {len(old)} old and {len(rows)} new ones")
    request_ids: list[str | None] = [*old[:count], *[None] * (count - len(old))]
    last = -1
    for row, request_id in zip(rows, new, strict=True):
        if not last < row < count:
            raise FrameError(at, f"row {row} after {last}, of {count}")
        request_ids[row], last = request_id, row
    whole = tuple(request_id for request_id in request_ids if request_id is not None)
    if len(whole) != count:
        raise FrameError(at, f"{count} ids, of which {count - len(whole)} are missing")
    check_distinct(whole, at)
    return whole
