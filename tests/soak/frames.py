# SPDX-License-Identifier: Apache-2.0
"""Reads the frames of one replica into a file, in a process that may be killed at any moment, and holds what the
file says against what clients got.

    python -m tests.soak.frames INSTANCE REPLICA FILE

A line is written before its frame is acknowledged. So whoever comes after a killed reader may get its last frame
again, and none is missing.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.questions import Answer, is_up_to
from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, NoFrameError, WriterGoneError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, RequestStatus, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver

_START_S = 600.0  # of a server that has to come back
_PAUSE_S = 0.2


@dataclass
class Told:
    """Sums up the frames of all replicas. tokens: by request; ended: requests with a last frame; problems: frames
    lost, out of order, or twice with another content; num_writers: by replica, as each begins with frame 0."""

    tokens: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    ended: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    num_writers: Counter[int] = field(default_factory=Counter)
    num_frames: int = 0
    num_again: int = 0


def line_of(frame: Frame) -> str:
    """Returns a frame's number, then id, tokens and whether it is the last of each of its requests."""
    target = frame.section(Source.TARGET)
    rows = []
    for row, request_id in enumerate(target.request_ids if target is not None else ()):
        count = int(target.num_accepted_B[row])
        is_last = target.status_B[row] == RequestStatus.FINISHED
        rows.append([request_id, target.token_ids_BS[row, :count].tolist(), bool(is_last)])
    return json.dumps([frame.sequence, rows])


def read(instance: int, replica: int, file: Path) -> None:
    """Writes a line for each frame until the server closes the ring; one that was killed may come back."""
    with file.open("a") as lines:
        lines.write("\n")  # ends what a killed reader had begun to write
        receiver = OutputReceiver(instance, replica, timeout_s=_START_S)
        while True:
            try:
                frame = receiver.receive(_PAUSE_S)
            except NoFrameError:
                continue
            except WriterGoneError:
                time.sleep(_PAUSE_S)
                continue
            except ChannelClosedError:
                return
            lines.write(line_of(frame) + "\n")
            lines.flush()
            receiver.acknowledge()


def read_lines(lines: Iterable[str], replica: int, told: Told) -> None:
    """Adds the lines of one replica's file, in their order; a cut line is that of a killed reader."""
    following, last = 0, ""
    for line in lines:
        try:
            sequence, rows = json.loads(line)
        except ValueError:
            continue
        if sequence == following - 1:
            told.num_again += 1
            if line != last:
                told.problems.append(f"replica {replica}: frame {sequence} came twice and was not the same")
            continue
        if sequence == 0:
            told.num_writers[replica] += 1  # how many there may have been is for the caller to know
        elif sequence != following:
            told.problems.append(f"replica {replica}: frame {sequence} came where {following} was due")
        following, last = sequence + 1, line
        told.num_frames += 1
        for request_id, tokens, is_last in rows:
            name = request_id.rsplit("-", 1)[0]  # without vLLM's random suffix
            if name in told.ended:
                told.problems.append(f"replica {replica}: {request_id} went on after its last frame")
            told.tokens[name] += tokens
            if is_last:
                told.ended.add(name)


def differences(answers: Sequence[Answer], told: Told, *, cut: frozenset[str] = frozenset()) -> list[str]:
    """Returns what frames say otherwise than the answers that clients got whole.

    Args:
        answers: complete answers.
        told: frames of all replicas.
        cut: ids of answers that came in the moment of a kill, whose last frames may be lost with the worker.
    """
    found = []
    for answer in answers:
        tokens = tuple(told.tokens.get(f"{answer.request_id}-0", ()))
        if is_up_to(tokens, answer.token_ids, answer.beyond):
            continue
        if answer.request_id in cut and tokens == answer.token_ids[: len(tokens)]:
            continue
        found.append(f"{answer.request_id}: frames say {tokens}, the client got {answer.token_ids}")
    return found


if __name__ == "__main__":
    read(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
