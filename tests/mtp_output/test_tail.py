# SPDX-License-Identifier: Apache-2.0
"""`vllm-ascend-ext tail` on a ring of its own."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from vllm_ascend_ext.cli import main
from vllm_ascend_ext.mtp_output.acceptance import Acceptance
from vllm_ascend_ext.mtp_output.frames.frame import Section, Source
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

INSTANCE = os.getpid() + 2**31  # of no engine


@pytest.fixture
def sender() -> Iterator[OutputSender]:
    """Three frames: drafts 2 of 2 and 0 of 2 accepted, none verified, and an end with one of its two."""
    sender = OutputSender(INSTANCE, 0, RingSize.for_engine(4, 2))
    frames = [([0, 0], [3, 1], 2), ([0, 4], [1, 0], 0), ([1, 2], [2, 0], 2)]
    for step, (status, counts, drafts) in enumerate(frames):
        sections = [
            Section.from_arrays(
                source,
                ("a", "b"),
                np.array(numbers, np.int32),
                np.array(status, np.int32),
                np.full((2, 3), 7 + step, np.int32),
            )
            for source, numbers in ((Source.TARGET, counts), (Source.DRAFT, [drafts * (n > 0) for n in counts]))
        ]
        sender.send(step, *sections)
    yield sender
    sender.close()


def tail(*arguments: str) -> int:
    return main(["tail", "--instance", str(INSTANCE), "--wait", "0.1", *arguments])


def test_a_line_a_request_and_the_acceptance(sender: OutputSender, capsys: pytest.CaptureFixture[str]) -> None:
    assert tail("--frames", "3") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[4:] for line in lines[:6]] == [
        ["a", "running", "drafts", "2/2", "tokens", "7", "7", "7"],
        ["b", "running", "drafts", "0/2", "tokens", "7"],
        ["a", "running", "drafts", "-", "tokens", "8"],
        ["b", "skipped", "drafts", "-", "tokens", "-"],
        ["a", "finished", "drafts", "1/2", "tokens", "9", "9"],
        ["b", "preempted", "drafts", "-", "tokens", "-"],
    ]
    assert " ".join(lines[6]) == "3 frames (0 missed), 7 tokens; acceptance by position: 0.500, 0.500"


def test_json_is_an_object_a_frame_and_the_sums(sender: OutputSender, capsys: pytest.CaptureFixture[str]) -> None:
    threading.Timer(0.5, sender.close).start()
    assert tail("--json", "--wait", "10") == 0  # until the sender closes
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert frames[0]["requests"][0] == {"request_id": "a", "status": "running", "token_ids": [7] * 3, "drafts": 2}
    assert [frame["sequence"] for frame in frames[:-1]] == [0, 1, 2]
    assert frames[-1] == {"frames": 3, "missed": 0, "tokens": 7, "drafts": [2, 2], "accepted_drafts": [1, 1]}


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tail("--replica", "3") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no sender has started" in error and "-3" in error


def test_acceptance_counts_positions_apart() -> None:
    acceptance = Acceptance()
    acceptance.add([3, 2], [4, 1])
    acceptance.add([0, 3], [1, 0])
    assert (acceptance.num_drafts, acceptance.num_accepted, acceptance.num_tokens) == ([2, 2, 1], [1, 1, 1], 6)
    assert acceptance.rates == [0.5, 0.5, 1.0]
