# SPDX-License-Identifier: Apache-2.0
"""Computes how large a ring is, and what lies where in its file; docs/internals/mtp_output.md tells why.

0           header page; words of 8 bytes, see `ring_file.Word`
4096        descriptors: position and length of the frames, frame n in descriptor n modulo their number
..          two rosters that the reader kept: sequence, length, checksum, zero, text
..          frames, on a page; positions count up, a frame at `position` lies at position modulo capacity
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

from vllm_ascend_ext.mtp_output.errors import ChannelSizeError
from vllm_ascend_ext.mtp_output.frames import rows
from vllm_ascend_ext.mtp_output.frames.parts import HEADER, SECTION, TRAILER
from vllm_ascend_ext.mtp_output.frames.section import MAX_SLOTS

HEADER_BYTES = 4096
DESCRIPTOR_BYTES = 16
ROSTER_SLOT_HEAD = struct.Struct("<QQQ8x")
LAP_BYTES = 1 << 20
"""Where an empty ring is begun anew: memory that both ends have in their caches is several times faster."""
MAX_REQUEST_ID_BYTES = 256  # on the average of a batch


@dataclass(frozen=True, slots=True)
class RingSize:
    """Describes how large a ring is, in bytes.

    Attributes:
        max_frame_bytes: bytes of one frame, at most.
        roster_bytes: bytes of one roster, at most.
        capacity: bytes of all frames together.
        num_descriptors: the most frames that wait for their reader.
    """

    max_frame_bytes: int
    roster_bytes: int
    capacity: int
    num_descriptors: int

    @classmethod
    def for_engine(
        cls, max_num_seqs: int, num_speculative_tokens: int, top_k: int = 0, *, num_frames: int = 64
    ) -> RingSize:
        """Returns the size with room for `num_frames` full steps of target and draft.

        Raises:
            ChannelSizeError: a number that is not positive, or more slots than a frame can count.
        """
        num_slots = num_speculative_tokens + 1
        if min(max_num_seqs, num_slots, num_frames) < 1 or top_k < 0 or num_slots > MAX_SLOTS:
            raise ChannelSizeError(
                f"no ring for {max_num_seqs} requests, {num_speculative_tokens} speculative tokens, top-k {top_k} "
                f"and {num_frames} frames: a step has at least a request and 1 to {MAX_SLOTS} tokens of each"
            )
        fixed = HEADER.size + TRAILER.size + 3 * SECTION.size
        body = fixed + 2 * rows.bound(max_num_seqs, num_slots, top_k)
        roster = 64 + 2 * max_num_seqs * (2 + MAX_REQUEST_ID_BYTES)
        capacity = max(num_frames * body, 2 * (body + roster))
        return cls(body + roster, roster, _pages(capacity), num_frames)

    def check(self) -> None:
        """Checks that a ring can have these sizes.

        Raises:
            ChannelSizeError: no ring can.
        """
        if self.num_descriptors < 1 or self.max_frame_bytes < 1 or 2 * self.max_frame_bytes > self.capacity:
            raise ChannelSizeError(
                f"a ring of {self.capacity} bytes for {self.num_descriptors} frames cannot hold frames of "
                f"{self.max_frame_bytes} bytes: the largest is at most half the ring"
            )

    @property
    def rosters_at(self) -> int:
        return HEADER_BYTES + DESCRIPTOR_BYTES * self.num_descriptors

    @property
    def roster_slot_bytes(self) -> int:
        return ROSTER_SLOT_HEAD.size + (self.roster_bytes + 7) // 8 * 8

    @property
    def frames_at(self) -> int:
        return _pages(self.rosters_at + 2 * self.roster_slot_bytes)

    @property
    def file_bytes(self) -> int:
        return self.frames_at + _pages(self.capacity)


def _pages(num_bytes: int) -> int:
    return (num_bytes + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
