# SPDX-License-Identifier: Apache-2.0
"""Shares what tests of the ring need: its two backends, pairs of ends, sections."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from scripts.ring_check import drawn_topk
from tests.support.host_build import build_host
from vllm_ascend_ext.mtp_output.frames.frame import Section, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring import folder as ring_folder
from vllm_ascend_ext.mtp_output.ring.backend import Backend, native_backend, python_backend
from vllm_ascend_ext.mtp_output.ring.folder import SHARED_MEMORY
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

INSTANCE = os.getpid() << 20  # tests that run beside each other have channels of their own
SIZE = RingSize.for_engine(8, 3, num_frames=8)
BACKENDS = ["python", "native"]
_instances = itertools.count(INSTANCE)


@cache
def backend(name: str) -> Backend:
    """Returns the backend in Python, or the C++ module, which CMake builds once a checkout."""
    if name == "python":
        return python_backend()
    return native_backend(build_host("ascend_ext_channel"))


def in_a_process_that_is_killed(job):
    """Runs `job` in a child, which is killed afterwards with what it holds."""
    process = os.fork()
    if process == 0:
        try:
            job()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), "the job failed"


@contextmanager
def own_folder() -> Iterator[Path]:
    """Rings lie in a folder of their own: others' are not ours to clear away, nor ours others'."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_folder, "SHARED_MEMORY", Path(name))
        yield Path(name)


def new_instance() -> int:
    return next(_instances)


def rings_of(instance: int) -> list[str]:
    """Returns what a ring left in shared memory."""
    return [path.name for path in SHARED_MEMORY.glob(f"*{instance}*")]


def random_section(
    rng: np.random.Generator, source: Source, batch: int, slots: int = 4, top_k: int = 0, prefix: str = "request"
) -> Section:
    """Draws any counts, tokens and statuses."""
    shape = (batch, slots)
    topk = drawn_topk(rng, shape, top_k)
    return Section.from_arrays(
        source,
        tuple(f"{prefix}-{row}" for row in range(batch)),
        rng.integers(0, slots + 1, batch).astype(np.int32),
        rng.integers(0, 5, batch).astype(np.int32),
        rng.integers(0, 2**31 - 1, shape).astype(np.int32),
        *topk,
    )


def same(got: tuple[Section, ...], sent: list[Section]) -> bool:
    """Compares bitwise."""
    return len(got) == len(sent) and all(
        a.source == b.source
        and a.request_ids == b.request_ids
        and (a.num_slots, a.top_k) == (b.num_slots, b.top_k)
        and a.packed_BW.tobytes() == b.packed_BW.tobytes()
        for a, b in zip(got, sent, strict=True)
    )


@contextmanager
def open_pair(
    of: Backend, size: RingSize = SIZE, timeout_s: float = 0.2, receiving: Backend | None = None
) -> Iterator[tuple[OutputSender, OutputReceiver, Callable[..., Section]]]:
    """Opens a sender, its receiver (of another backend if asked), and a maker of sections; nothing may be left."""
    instance, rng = new_instance(), np.random.default_rng(0)
    sender = OutputSender(instance, 0, size, timeout_s=timeout_s, backend=of)
    receiver = OutputReceiver(instance, 0, timeout_s=5, backend=receiving or of)
    try:
        yield sender, receiver, lambda source, batch, **kwargs: random_section(rng, source, batch, **kwargs)
    finally:
        sender.close()
        receiver.close()
    assert not rings_of(instance)
