# SPDX-License-Identifier: Apache-2.0
"""Published deployments: every command is judged or says why not, by rules that need nothing but the command."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vllm_ascend_ext.integration.registry import FEATURES
from vllm_ascend_ext.integration.upstream.versions import PAIRS, Pair
from vllm_ascend_ext.tools.check.answer import Answer, totals
from vllm_ascend_ext.tools.check.published import answer_rows, read_rows

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "tests" / "assets" / "deployments" / "published.jsonl"
NUM_COMMANDS = 411
_BOUND_S = 120  # of all commands together, on a loaded machine


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(read_rows(PUBLISHED))


@pytest.fixture(scope="module")
def answers(rows: list[dict[str, Any]]) -> list[Answer]:
    begin = time.monotonic()
    found = answer_rows(rows, "published", ("A2", "A3"))
    assert time.monotonic() - begin < _BOUND_S
    return found


def test_every_command_has_an_answer(rows: list[dict[str, Any]], answers: list[Answer]) -> None:
    """What cannot be judged is a variable that decides, or is of a later release than ours."""
    assert sum(one.commands for one in answers) == NUM_COMMANDS
    reasons = Counter[str]()
    for row, one in zip(rows, answers, strict=True):
        assert bool(one.error) != bool(one.verdicts)
        if one.error and row["release"] == "0.23.0.post1":
            reasons[one.error.partition(":")[0]] += one.commands
    assert set(reasons) <= {"--tensor-parallel-size is left to $TP, which the command does not set"}


def test_nothing_starts_without_a_test(answers: list[Answer]) -> None:
    for one in answers:
        for verdict in one.verdicts:
            assert (verdict.state == "starts") == bool(verdict.tests)
            assert (verdict.state == "unverified") == bool(verdict.lacks)
            assert (verdict.state == "refused") == bool(verdict.reasons)
            assert all(str(reason) and reason.instead for reason in verdict.reasons)
    for feature in FEATURES:
        whole = sum(totals(answers)[feature.name].values())
        assert whole == sum(one.commands for one in answers if not one.error)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_page_has_these_numbers(rows: list[dict[str, Any]], pair: Pair) -> None:
    text = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    own = [row for row in rows if row["release"] == pair.vllm_ascend]
    ours = answer_rows(own, "published", ("A2", "A3"), pair=pair)
    section = text.split(f"## {pair.vllm_ascend}")[1].split("###")[0]
    for feature in FEATURES:
        cells = re.search(rf"^\| `{feature.name}` \| (\d+) .*\| (\d+) .*\| (\d+) ", section, re.MULTILINE)
        assert cells is not None
        assert tuple(map(int, cells.groups())) == tuple(totals(ours)[feature.name].values())


def test_the_rows_hold_no_address_and_no_account() -> None:
    text = PUBLISHED.read_text(encoding="utf-8")
    assert not re.search(r"\b\d+\.\d+\.\d+\.\d+\b|@\w|/home/|/Users/|https?://", text)
