# SPDX-License-Identifier: Apache-2.0
"""Ten minutes of mixed load and random kills, nightly; and that the soak's own checks see a fault."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.soak.frames import Told, differences, read_lines
from tests.soak.questions import Answer, Question, is_right, make_questions
from tests.soak.readers import Readers
from tests.soak.run import Soak
from tests.soak.watch import growth_of
from tests.support.long_tables import long_table
from tests.support.saved_output import next_instance
from vllm_ascend_ext.mtp_output.frames.section import Section, Source
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender


@pytest.mark.engine
@long_table
def test_ten_minutes_of_load_and_kills(tiny_model: str, tmp_path: Path) -> None:
    summary = Soak(tiny_model, tmp_path, minutes=10, mean_life_s=180, seed=1).run()
    print(summary)
    assert summary.faults == []
    assert summary.kills["reader"] > 0 and summary.kills["Worker"] + summary.kills["APIServer"] > 0
    assert set(summary.score.right) == {question.kind for question in make_questions(12, 0)}


LINES = [
    json.dumps([0, [["a-0-11111111", [1, 2], False], ["b-0-22222222", [7], False]]]),
    json.dumps([1, [["a-0-11111111", [3], True]]]),
    json.dumps([2, [["b-0-22222222", [8, 9], True]]]),
]
ANSWERS = [Answer("a", "", (1, 2, 3), "stop"), Answer("b", "", (7, 8, 9), "length")]


def told_by(lines: list[str]) -> Told:
    told = Told()
    read_lines(lines, 0, told)
    return told


def test_frames_that_come_again_after_a_death_are_right() -> None:
    told = told_by([LINES[0], LINES[1], LINES[1][:9], "", LINES[1], LINES[2]])
    assert (told.problems, told.num_frames, told.num_again) == ([], 3, 1)
    assert differences(ANSWERS, told) == []


def test_frames_of_the_next_server_begin_anew() -> None:
    told = told_by([*LINES, LINES[0].replace('"a-', '"c-').replace('"b-', '"d-')])
    assert (told.problems, told.num_frames, told.num_writers) == ([], 4, {0: 2})


@pytest.mark.distributed
def test_a_reader_comes_back_where_its_ring_was_closed(tmp_path: Path) -> None:
    instance, problems = next_instance(), list[str]()
    readers = Readers(instance, 1, tmp_path, random.Random(0), problems)
    try:
        for number in range(2):
            sender = OutputSender(instance, 0, RingSize.for_engine(2, 1), timeout_s=60)
            ids, one = (f"a{number}-0-11111111",), np.ones(1, np.int32)
            for token in (number, 9):
                tokens_BS = np.array([[token, -1, -1]], np.int32)
                sender.send(token, Section.from_arrays(Source.TARGET, ids, one, 0 * one, tokens_BS))
            sender.close(60)
            readers.wait()
            readers.come_back()
        told = told_by(readers.frames_of(0).read_text().splitlines())
    finally:
        readers.kill()
    assert (problems, told.num_writers) == ([], {0: 2})
    assert told.tokens == {"a0-0": [0, 9], "a1-0": [1, 9]}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        pytest.param([LINES[0], LINES[2]], "frame 2 came where 1 was due", id="lost"),
        pytest.param([LINES[0], LINES[2], LINES[1]], "frame 1 came where 3 was due", id="out of order"),
        pytest.param([LINES[0], LINES[0].replace("7", "6")], "was not the same", id="changed"),
        pytest.param([*LINES, LINES[2].replace("2,", "3,", 1)], "went on after its last frame", id="again later"),
    ],
)
def test_wrong_frames_are_seen(lines: list[str], problem: str) -> None:
    problems = told_by(lines).problems
    assert any(problem in found for found in problems), problems


def test_tokens_that_clients_did_not_get_are_seen() -> None:
    told = told_by([LINES[0], LINES[1].replace("[3]", "[4]"), LINES[2]])
    assert len(differences(ANSWERS, told, cut=frozenset({"a", "b"}))) == 1
    cut = told_by(LINES[:2])
    assert len(differences(ANSWERS, cut)) == 1
    assert differences(ANSWERS, cut, cut=frozenset({"b"})) == []


def test_a_given_up_answer_is_a_beginning() -> None:
    right = Answer("x", "abc", (1, 2, 3), "length")
    given_up = Question("given up", {}, True, give_up_at=2)
    assert is_right(given_up, Answer("y", "ab", (1, 2), None), right)
    assert not is_right(given_up, Answer("y", "ab", (1, 4), None), right)
    whole = Question("whole", {}, False)
    assert is_right(whole, Answer("y", "abc", (1, 2, 3), "length"), right)
    assert not is_right(whole, Answer("y", "abc", (1, 2, 3), "stop"), right)


def test_tokens_behind_a_stop_string_are_the_ones_that_follow() -> None:
    """Of one step with drafts clients get the ids behind it, and frames may have more."""
    stopped, right = Question("stopped", {}, True), Answer("x", "abc", (1, 2, 3), "stop", (4, 5))
    for tokens, is_expected in (((1, 2, 3), True), ((1, 2, 3, 4), True), ((1, 2), False), ((1, 2, 3, 5), False)):
        assert is_right(stopped, Answer("y", "abc", tokens, "stop"), right) == is_expected
    assert not is_right(stopped, Answer("y", "abcd", (1, 2, 3, 4), "stop"), right)
    client = Answer("a", "", (1, 2, 3), "stop", (4, 5))
    for tokens, num_differences in (([3], 0), ([3, 4], 0), ([3, 4, 5], 0), ([3, 5], 1), ([], 1)):
        told = told_by([LINES[0], json.dumps([1, [["a-0-11111111", tokens, True]]])])
        assert len(differences([client], told)) == num_differences


def test_growth_is_seen_after_the_settling() -> None:
    flat = [(second, 100.0 + (50.0 if second > 60 else 0.0)) for second in range(0, 600, 5)]
    leak = [(second, 100.0 + second / 60 * 2) for second in range(0, 600, 5)]
    found = growth_of({"flat 1": flat, "leak 2": leak, "short 3": leak[:20]}, "memory", settle_s=120)
    assert [growth.process for growth in found] == ["flat 1", "leak 2"]
    assert abs(found[0].per_minute) < 1e-6
    assert found[1].per_minute == pytest.approx(2.0)
