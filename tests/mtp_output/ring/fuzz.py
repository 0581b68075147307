# SPDX-License-Identifier: Apache-2.0
"""Damages frames: none may be accepted, none may crash or hang the reader, and none may change what it knows.

Half of the frames are damaged and keep their checksum; the reader must refuse all of them. The others are damaged
and sealed again with the right checksum, which no accident does but a bug of a sender may; the reader must refuse
them by FrameError, or read something that is a frame.

`fuzz_ring` puts such frames into a ring and reads them by one call into C++, as a receiver does on the fast path.
What that accepts, the code in Python must read alike.

    python -m tests.mtp_output.ring.fuzz --frames 1000000
"""

from __future__ import annotations

import argparse
import random
import struct
import time

import numpy as np
import xxhash

from tests.mtp_output.ring.rings import SIZE, backend, new_instance, random_section, same
from vllm_ascend_ext.mtp_output.errors import FrameError
from vllm_ascend_ext.mtp_output.frames.frame import FrameReader, FrameWriter, Section, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.backend import Backend
from vllm_ascend_ext.mtp_output.ring.folder import open_ring
from vllm_ascend_ext.mtp_output.sender import OutputSender

SLOW_S = 2.0


def frames_of(of: Backend, seed: int, number: int = 64) -> list[tuple[bytes, list[Section]]]:
    """Returns whole frames that follow each other, some under the roster of the one before."""
    rng, writer = np.random.default_rng(seed), FrameWriter(7, 1, of.rows)
    memory = np.zeros(1 << 20, np.uint8)
    frames, ids = [], ("é0", "é1", "é2", "é3", "é4")
    for sequence in range(number):
        ids, top_k = next_ids(rng, ids, 8), int(rng.integers(0, 3))
        sections = [of_ids(random_section(rng, Source.TARGET, len(ids), top_k=top_k), ids)]
        if rng.integers(2):
            draft_ids = ids[:: int(rng.integers(1, 3))]
            sections.append(of_ids(random_section(rng, Source.DRAFT, len(draft_ids), slots=2), draft_ids))
        length = writer.write(memory.data, 0, sequence, sequence, tuple(sections))
        frames.append((memory[:length].tobytes(), sections))
    return frames


def next_ids(rng: np.random.Generator, ids: tuple[str, ...], most: int) -> tuple[str, ...]:
    """Returns the ids of the next batch: mostly some come or go, sometimes all, sometimes none."""
    changed, new = list(ids), f"é{rng.integers(2**40)}"
    match rng.integers(6):
        case 0 if changed:
            changed[rng.integers(len(changed))] = new
        case 1 if len(changed) < most:
            changed.insert(int(rng.integers(len(changed) + 1)), new)
        case 2 if changed:
            changed.pop(int(rng.integers(len(changed))))
        case 3 if changed:
            rng.shuffle(changed)
        case 4 if rng.integers(4) == 0:
            changed = [f"{new}-{row}" for row in range(rng.integers(most + 1))]
    return tuple(changed)


def of_ids(section: Section, ids: tuple[str, ...]) -> Section:
    return section._replace(request_ids=ids)


def damaged(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Damages `data`: flipped bits, overwritten fields, missing, additional or foreign parts."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(changed)) if changed else 0
        match rng.randrange(6):
            case 0 if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                at -= at % 4
                changed[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**16, 2**31, 2**32 - 1]))
            case 3:
                del changed[at : at + rng.choice([1, 4, 8, len(changed)])]
            case 4:
                changed[at:at] = rng.randbytes(rng.choice([1, 4, 8]))
            case _:
                changed[at:] = other[rng.randrange(len(other)) :]
    return bytes(changed)


def sealed(data: bytes) -> bytes:
    """Seals `data` with the length and the checksum that belong to it."""
    body = bytearray(data[:-8])
    if len(body) >= 12:
        body[8:12] = struct.pack("<I", len(data))
    return bytes(body) + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def fuzz(of: Backend, num_frames: int, seed: int) -> tuple[int, int]:
    """Reads damaged frames; returns how many of the sealed ones were refused, and how many were frames.

    Raises:
        AssertionError: one was accepted that was not sealed, or took long.
        Exception: any other error than FrameError, by the reader.
    """
    rng, frames = random.Random(seed), frames_of(of, seed)
    genuine = {data for data, _ in frames}
    refused = accepted = 0
    while refused + accepted < num_frames // 2:
        reader = FrameReader(of.rows)
        for index, (data, sections) in enumerate(frames):
            bad = damaged(rng, data, frames[(index + 5) % len(frames)][0])
            if bad not in genuine:  # a splice may make another whole frame
                before = reader.roster_sequence, reader.roster
                begin = time.monotonic()
                try:
                    reader.read(bad)
                except FrameError as error:
                    assert 0 <= error.offset <= max(len(bad), 64), error
                    assert (reader.roster_sequence, reader.roster) == before
                else:
                    raise AssertionError(f"a damaged frame was accepted: seed {seed}, {bad.hex()}")
                again = FrameReader(of.rows)
                again.adopt(*before)
                try:
                    again.read(sealed(bad))
                    accepted += 1
                except FrameError:
                    refused += 1
                assert time.monotonic() - begin < SLOW_S, f"slow: seed {seed}, {bad.hex()}"
            assert same(reader.read(data).sections, sections)  # what was damaged did no harm
    return refused, accepted


def fuzz_ring(num_frames: int, seed: int) -> tuple[int, int]:
    """Reads damaged frames in a ring by the fast path; returns how many C++ left to Python, and how many it read.

    By turns the frame is under the roster before, changes it, and has one of its own.

    Raises:
        AssertionError: it read one that Python refuses, or read it differently.
    """
    rng, counts = random.Random(seed), [0, 0]
    ids = {
        "the same": (tuple("abcdefgh"), tuple("bdfh")),
        "a change": (tuple("abcdefgX"), tuple("bdfY")),
        "all new": (tuple("ABCDEFGH"), tuple("VWXYZ")),
    }
    for after in ids.values():
        left, read = _fuzz_ring(num_frames // len(ids), rng, seed, ids["the same"], after)
        counts = [counts[0] + left, counts[1] + read]
    return counts[0], counts[1]


def _fuzz_ring(
    num_frames: int,
    rng: random.Random,
    seed: int,
    before: tuple[tuple[str, ...], ...],
    after: tuple[tuple[str, ...], ...],
) -> tuple[int, int]:
    instance, of, numbers = new_instance(), backend("native"), np.random.default_rng(seed)
    sender, counts = OutputSender(instance, 0, SIZE, backend=of), [0, 0]
    receiver = OutputReceiver(instance, 0, backend=of)
    for step, (target_ids, draft_ids) in enumerate((before, after)):
        target = of_ids(random_section(numbers, Source.TARGET, len(target_ids), top_k=seed % 2), target_ids)
        sender.send(step, target, of_ids(random_section(numbers, Source.DRAFT, len(draft_ids), 2), draft_ids))
    receiver.receive(5)
    known = receiver._fast.roster()
    ring = open_ring(sender.path, writable=True)
    begin, length = ring.words[ring.descriptor(1)], ring.words[ring.descriptor(1) + 1]
    whole = bytes(ring.frames[begin : begin + length])
    for number in range(num_frames):
        data = damaged(rng, whole, whole)
        data = (sealed(data) if number % 2 else data)[: SIZE.max_frame_bytes]
        ring.frames[begin : begin + len(data)] = data
        ring.words[ring.descriptor(1) + 1] = len(data)
        frame = receiver._receive_fast(0)
        counts[frame is not None] += 1
        if frame is not None:
            reference = FrameReader(backend("python").rows)
            reference.adopt(*known)
            expected = reference.read(data)
            assert frame[:4] == expected[:4] and frame.sent_ns == expected.sent_ns and frame.sequence == 1
            assert same(frame.sections, list(expected.sections)), data.hex()
            assert receiver._fast.roster() == (reference.roster_sequence, reference.roster), data.hex()
            receiver._ring.sequence = 1
            receiver._fast.adopt(*known)
    ring.close()
    sender.close()
    receiver.close()
    return counts[0], counts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=["python", "native"], default="native")
    arguments = parser.parse_args()
    begin = time.monotonic()
    refused, accepted = fuzz(backend(arguments.backend), arguments.frames, arguments.seed)
    print(
        f"backend {arguments.backend}, seed {arguments.seed}: {refused + accepted} damaged frames, all refused; "
        f"as many sealed again: {refused} refused, {accepted} were frames; {time.monotonic() - begin:.0f} s"
    )
    if arguments.backend == "native":
        left, read = fuzz_ring(arguments.frames, arguments.seed)
        print(f"in a ring, read by one call: {left} were left to Python, {read} read like there")


if __name__ == "__main__":
    main()
