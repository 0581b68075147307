# SPDX-License-Identifier: Apache-2.0
"""Encodes the body of a rows section: accepted tokens only, one request after the other.

    0    u32 B requests, u16 S slots, u16 K top-k, u32 T accepted tokens of all, u32 zero
    16   u8[B] accepted tokens a request, u8[B] statuses, padded to 4 bytes
    ..   i32[T] tokens; with top-k also i32[T, K] ids, f32[T, K] log-probabilities, i32[T] ranks

Two codecs write and read it alike: numpy here, and C++ (`native.NativeRows`) where it was built.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

import numpy as np

from vllm_ascend_ext.mtp_output.errors import FrameError
from vllm_ascend_ext.mtp_output.frames.section import MAX_SLOTS, Int32Array, Section
from vllm_ascend_ext.mtp_record import MtpRecord

HEAD = struct.Struct("<IHHII")
MAX_RECORD_BYTES = 2**28
"""The most that a reader unpacks of one section: a body of few bytes can speak of many empty slots."""


class RowsHead(NamedTuple):
    """Holds the first fields of a body, in order."""

    batch: int
    num_slots: int
    top_k: int
    num_tokens: int

    @property
    def counts_end(self) -> int:
        return HEAD.size + (2 * self.batch + 3) // 4 * 4

    @property
    def num_bytes(self) -> int:
        """Returns the bytes of the whole body."""
        return self.counts_end + 4 * self.num_tokens * words_per_token(self.top_k)


def words_per_token(top_k: int) -> int:
    return 2 + 2 * top_k if top_k else 1


def bound(batch: int, num_slots: int, top_k: int) -> int:
    """Returns the most bytes that a body of these can take."""
    return RowsHead(batch, num_slots, top_k, batch * num_slots).num_bytes


class RowsCodec(Protocol):
    """Writes and reads bodies."""

    def write(self, section: Section, memory: memoryview, at: int) -> int:
        """Writes the body of `section` at `at`, where `bound` bytes are free. Returns its length.

        Raises:
            ValueError: a record with a count outside 0 to S, or a status that is no byte.
        """

    def read(self, frame: bytes, at: int, head: RowsHead) -> Int32Array:
        """Returns the records ``[B, W]`` of the body at `at`, whose head is checked.

        Raises:
            FrameError: a count above S, or counts whose sum is not T.
        """


def read_head(frame: bytes, at: int, num_bytes: int) -> RowsHead:
    """Returns the head of the body of `num_bytes` at `at`, which lies in the frame.

    Raises:
        FrameError: what it says does not make a body of this length.
    """
    if num_bytes < HEAD.size:
        raise FrameError(at, f"rows of {num_bytes} bytes")
    batch, num_slots, top_k, num_tokens, zero = HEAD.unpack_from(frame, at)
    head = RowsHead(batch, num_slots, top_k, num_tokens)
    if not 1 <= num_slots <= MAX_SLOTS or zero or num_tokens > batch * num_slots or head.num_bytes != num_bytes:
        raise FrameError(at, f"{head} does not make {num_bytes} bytes")
    if 4 * batch * MtpRecord(num_slots, top_k).words > MAX_RECORD_BYTES:
        raise FrameError(at, f"{head} makes records of more than {MAX_RECORD_BYTES} bytes")
    return head


class NumpyRows:
    """Implements the codec of a pure-Python install."""

    def write(self, section: Section, memory: memoryview, at: int) -> int:
        batch, num_slots = len(section.request_ids), section.num_slots
        counts_B, status_B = section.num_accepted_B, section.status_B
        is_accepted_BS = np.arange(num_slots) < counts_B[:, None]
        num_tokens = int(counts_B.sum())
        head = RowsHead(batch, num_slots, section.top_k, num_tokens)
        # as unsigned numbers, negative ones are too large
        if batch and (counts_B.view(np.uint32).max() > num_slots or status_B.view(np.uint32).max() > 255):
            raise ValueError(
                f"counts are 0 to {num_slots} and statuses bytes, not {counts_B.tolist()} and {status_B.tolist()}"
            )
        HEAD.pack_into(memory, at, *head, 0)
        body = np.frombuffer(memory, np.uint8, head.num_bytes, at)
        body[HEAD.size : HEAD.size + batch] = counts_B
        body[HEAD.size + batch : HEAD.size + 2 * batch] = status_B
        body[HEAD.size + 2 * batch : head.counts_end] = 0
        words = body[head.counts_end :].view(np.int32)
        begin = 0
        for part in section.parts():
            values = part[is_accepted_BS].ravel()
            words[begin : begin + values.size] = values
            begin += values.size
        return head.num_bytes

    def read(self, frame: bytes, at: int, head: RowsHead) -> Int32Array:
        batch, num_slots, top_k, num_tokens = head
        counts_B = np.frombuffer(frame, np.uint8, batch, at + HEAD.size)
        if batch and counts_B.max() > num_slots:
            raise FrameError(at + HEAD.size + int(counts_B.argmax()), f"more than {num_slots} accepted tokens")
        if int(counts_B.sum(dtype=np.int64)) != num_tokens:
            raise FrameError(at + HEAD.size, f"counts of {counts_B.sum()} tokens where there are {num_tokens}")
        record = MtpRecord(num_slots, top_k)
        packed_BW = np.full((batch, record.words), -1, np.int32)
        packed_BW[:, 0] = counts_B
        packed_BW[:, 1] = np.frombuffer(frame, np.uint8, batch, at + HEAD.size + batch)
        is_accepted_BS = np.arange(num_slots) < counts_B[:, None]
        words = np.frombuffer(frame, "<i4", num_tokens * words_per_token(top_k), at + head.counts_end)
        begin = 0
        section = Section.from_packed(("",) * batch, packed_BW, num_slots, top_k)
        for part in section.parts():
            size = num_tokens * (top_k if part.ndim == 3 else 1)
            part[is_accepted_BS] = words[begin : begin + size].reshape(num_tokens, *part.shape[2:])
            begin += size
        return packed_BW
