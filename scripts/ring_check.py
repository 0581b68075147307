#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Checks the channel of an installed wheel: batches that change, through rings of both backends in all pairs.

Needs neither torch nor a compiler: it imports the package that is installed, and nothing of this checkout.

    python scripts/ring_check.py [--frames 500]
"""

from __future__ import annotations

import argparse
import itertools
import os

import numpy as np

from vllm_ascend_ext.mtp_output.frames.section import Section, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.backend import Backend, installed_backend, python_backend
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

MOST, NUM_SLOTS, TOP_K = 24, 4, 3


def drawn_topk(rng: np.random.Generator, shape: tuple[int, int], top_k: int) -> tuple[np.ndarray, ...]:
    """Draws the arrays of the most likely tokens of rows and slots; none for no `top_k`."""
    if not top_k:
        return ()
    return (
        rng.integers(0, 2**31 - 1, (*shape, top_k)).astype(np.int32),
        rng.standard_normal((*shape, top_k)).astype(np.float32),
        rng.integers(0, 1000, shape).astype(np.int32),
    )


def section_of(rng: np.random.Generator, source: Source, ids: tuple[str, ...], top_k: int) -> Section:
    """Draws any counts and tokens."""
    shape = (len(ids), NUM_SLOTS)
    topk = drawn_topk(rng, shape, top_k)
    counts = rng.integers(0, NUM_SLOTS + 1, len(ids)).astype(np.int32)
    tokens = rng.integers(0, 2**31 - 1, shape).astype(np.int32)
    return Section.from_arrays(source, ids, counts, np.zeros_like(counts), tokens, *topk)


def check_pair(sending: Backend, receiving: Backend, instance: int, num_frames: int) -> None:
    """Sends frames of batches of which requests come and go; what is read must be what was sent, bitwise."""
    rng, ids = np.random.default_rng(0), tuple(f"é-{row}" for row in range(8))
    sender = OutputSender(instance, 0, RingSize.for_engine(MOST, NUM_SLOTS - 1, TOP_K), backend=sending)
    receiver = OutputReceiver(instance, 0, backend=receiving)
    for step in range(num_frames):
        kind, row = rng.integers(5), int(rng.integers(max(len(ids), 1)))
        if kind == 0 or (kind == 1 and len(ids) < MOST):
            ids = (*ids[:row], f"request-{step}", *ids[row + (kind == 0) :])
        elif kind == 2:
            ids = ids[:row] + ids[row + 1 :]
        sections = [section_of(rng, Source.TARGET, ids, TOP_K * int(rng.integers(2)))]
        if step % 3:
            sections.append(section_of(rng, Source.DRAFT, ids[:: step % 3], 0))
        assert sender.send(step, *sections) == step
        frame = receiver.receive(10)
        assert (frame.step, len(frame.sections)) == (step, len(sections)), frame
        for got, sent in zip(frame.sections, sections, strict=True):
            assert got.request_ids == sent.request_ids and (got.num_slots, got.top_k) == (NUM_SLOTS, sent.top_k)
            assert got.packed_BW.tobytes() == sent.packed_BW.tobytes()
    receiver.acknowledge()
    assert sender.close() == 0
    receiver.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--python", action="store_true", help="the wheel has no C++ module, and must say so")
    arguments = parser.parse_args()
    backends = [python_backend(), installed_backend()]
    assert (backends[1].module is None) == arguments.python, backends[1]
    for number, (sending, receiving) in enumerate(itertools.product(backends, repeat=2)):
        check_pair(sending, receiving, os.getpid() << 8 | number, arguments.frames)
        print(f"{sending.name} to {receiving.name}: {arguments.frames} frames")


if __name__ == "__main__":
    main()
