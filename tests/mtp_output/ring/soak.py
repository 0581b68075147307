# SPDX-License-Identifier: Apache-2.0
"""Frames through the ring while its writer and its reader are killed at random, by SIGKILL.

Frame n holds the n-th, modulo a prime, of prepared contents, and n itself as its step; so a reader knows what each
must hold. The reader notes in memory that outlives it what it has verified, then acknowledges (every other frame
by receiving the next), then notes that; so whoever comes after it knows what may come again.

    python -m tests.mtp_output.ring.soak --frames 10000000
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vllm_ascend_ext.mtp_output.errors import WriterGoneError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, Section, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.backend import Backend, installed_backend, native_backend, python_backend
from vllm_ascend_ext.mtp_output.ring.folder import ring_path
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

NUM_SLOTS = 3
SIZE = RingSize(max_frame_bytes=1024, roster_bytes=256, capacity=8192, num_descriptors=24)
VERIFIED, ACKNOWLEDGED, AGAIN, WRONG = range(4)  # words of the notes
_RUN_LENGTH = 40  # frames under one roster
_WAIT_S = 30.0
_RESTART_S = 0.001
_REPORT_S = 60.0


@dataclass
class Summary:
    """Sums up what happened to `frames` frames; `wrong` must be 0, and so must the files left."""

    frames: int
    writer_kills: int
    reader_kills: int
    again: int  # verified, not acknowledged when the reader died, and rightly sent again
    wrong: int
    seconds: float
    left: list[str]

    def __str__(self) -> str:
        return (
            f"{self.frames} frames in {self.seconds:.1f} s ({self.frames / self.seconds:.0f}/s); SIGKILL: writer "
            f"{self.writer_kills}, reader {self.reader_kills}; lost, duplicated after acknowledgement, out of "
            f"order or damaged: {self.wrong}; sent again after a death before the acknowledgement: {self.again}; "
            f"left in /dev/shm: {self.left or 'nothing'}"
        )


def _content(index: int) -> tuple[Section, Section | None]:
    """Makes rows that come and go with the roster, tokens that follow from the index."""
    run = index // _RUN_LENGTH
    request_ids = tuple(f"request-{run % 1000}-{row}" for row in range(run % 5))
    batch = len(request_ids)
    rows = np.arange(batch, dtype=np.int32)
    counts = (index + rows) % (NUM_SLOTS + 1)
    tokens = index * 10 + rows[:, None] + np.arange(NUM_SLOTS, dtype=np.int32)
    status = rows % 3
    target = Section.from_arrays(Source.TARGET, request_ids, counts, status, tokens.astype(np.int32))
    if run % 3:
        return target, None
    return target, Section.from_arrays(Source.DRAFT, request_ids[::2], counts[::2], status[::2], tokens[::2])


CONTENTS = [_content(index) for index in range(4999)]


def is_expected(frame: Frame) -> bool:
    expected = [section for section in CONTENTS[frame.sequence % len(CONTENTS)] if section is not None]
    return (
        frame.step == frame.sequence
        and len(frame.sections) == len(expected)
        and all(
            got.source == section.source
            and got.request_ids == section.request_ids
            and got.packed_BW.tobytes() == section.packed_BW.tobytes()
            for got, section in zip(frame.sections, expected, strict=True)
        )
    )


def write(instance: int, num_frames: int, backend: Backend) -> None:
    sender = OutputSender(instance, 0, SIZE, timeout_s=_WAIT_S, backend=backend)
    while (sequence := sender.next_sequence) < num_frames:
        sender.send(sequence, *CONTENTS[sequence % len(CONTENTS)])
    if sender.close(_WAIT_S):
        raise AssertionError("the reader did not read to the end")


def read(instance: int, num_frames: int, backend: Backend, notes: memoryview) -> None:
    receiver = OutputReceiver(instance, 0, timeout_s=_WAIT_S, backend=backend)
    first = True
    while notes[ACKNOWLEDGED] < num_frames:
        try:
            frame = receiver.receive(_WAIT_S)
        except WriterGoneError:
            time.sleep(_RESTART_S)  # it will be back
            continue
        again = first and notes[ACKNOWLEDGED] <= frame.sequence < notes[VERIFIED]
        first = False
        notes[AGAIN] += again
        notes[WRONG] += not again and frame.sequence != notes[VERIFIED]
        notes[WRONG] += not is_expected(frame)
        notes[VERIFIED] = frame.sequence + 1
        notes[ACKNOWLEDGED] = frame.sequence
        if frame.sequence % 2 or frame.sequence + 1 == num_frames:  # the others by the next `receive`
            receiver.acknowledge()
            notes[ACKNOWLEDGED] = frame.sequence + 1
    receiver.close()


def _fork(job: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        try:
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    return process


def soak(
    num_frames: int, backend: Backend, *, seed: int, mean_life_s: float, deadline_s: float, min_frames: int = 1
) -> Summary:
    """Sends `num_frames` frames; kills one end or the other every `mean_life_s` seconds on average.

    Between two kills at least `min_frames` frames are read.

    Raises:
        AssertionError: an end failed by itself, or all was not read within `deadline_s` seconds.
    """
    rng, instance, begin = random.Random(seed), os.getpid() << 20 | seed, time.monotonic()
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    notes = memoryview(memory).cast("Q")
    jobs = {
        "writer": lambda: write(instance, num_frames, backend),
        "reader": lambda: read(instance, num_frames, backend, notes),
    }
    kills = dict.fromkeys(jobs, 0)
    next_report = begin + _REPORT_S
    processes = {name: _fork(job) for name, job in jobs.items()}
    try:
        while processes:
            assert time.monotonic() < begin + deadline_s, f"{notes[VERIFIED]} of {num_frames} after {deadline_s} s"
            lived, known = time.monotonic(), notes[VERIFIED]
            time.sleep(rng.expovariate(1 / mean_life_s))
            while notes[VERIFIED] < min(known + min_frames, num_frames) and time.monotonic() < lived + _WAIT_S:
                time.sleep(0.005)  # a busy machine
            if time.monotonic() > next_report:
                next_report += _REPORT_S
                print(f"{notes[VERIFIED]} frames, {notes[WRONG]} wrong, kills {kills}", flush=True)
            is_ending = notes[VERIFIED] > num_frames - 100  # a writer that closes is not restarted
            victim = rng.choice(list(jobs))
            if not is_ending:
                os.kill(processes[victim], signal.SIGKILL)
            for name, process in list(processes.items()):
                done, status = os.waitpid(process, 0 if name == victim and not is_ending else os.WNOHANG)
                if not done:
                    continue
                del processes[name]
                if os.WIFSIGNALED(status):
                    kills[name] += 1
                    processes[name] = _fork(jobs[name])
                assert os.WIFSIGNALED(status) or status == 0, f"the {name} failed"
    finally:
        for process in processes.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    left = [path.name for path in ring_path(instance, 0).parent.glob(f"*{instance}*")]
    seconds = time.monotonic() - begin
    return Summary(notes[VERIFIED], kills["writer"], kills["reader"], notes[AGAIN], notes[WRONG], seconds, left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean-life", type=float, default=0.1, help="seconds between kills")
    parser.add_argument("--deadline", type=float, default=24 * 3600, help="seconds")
    parser.add_argument("--backend", choices=["installed", "python", "native"], default="installed")
    parser.add_argument("--folder", type=Path, help="of the native backend's module, when it is not installed")
    arguments = parser.parse_args()
    makers = {"installed": installed_backend, "python": python_backend, "native": native_backend}
    backend = native_backend(arguments.folder) if arguments.folder else makers[arguments.backend]()
    summary = soak(
        arguments.frames,
        backend,
        seed=arguments.seed,
        mean_life_s=arguments.mean_life,
        deadline_s=arguments.deadline,
    )
    print(f"backend {backend.name}: {summary}")
    sys.exit(bool(summary.wrong or summary.left or summary.frames != arguments.frames))


if __name__ == "__main__":
    main()
