# SPDX-License-Identifier: Apache-2.0
"""The race checker: every planted bug is reported each time and without delays, its twin never and under none."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.emulator.races.ordered import PROGRAMS
from tests.emulator.races.planted import IN_PROCESS, Planted

pytestmark = pytest.mark.emulator

RUNS = 100  # of a planted bug, all reported
SEEDS = 50  # of a correct program, unless --npu-schedules asks for another number


@pytest.fixture(autouse=True)
def seeds(npu_schedules: Iterable[int]) -> Sequence[int]:
    """The session's seeds, or SEEDS of our own when it has just one; tests loop over them or need none."""
    given = list(npu_schedules)
    return given if len(given) > 1 else range(1, SEEDS + 1)


def each(seeds: Sequence[int], longest_delay_us: int | None = None) -> Iterator[int]:
    """Every seed, in force while the loop stands at it."""
    from emulator import schedule

    try:
        for seed in seeds:
            schedule.set_seed(seed, longest_delay_us)
            yield seed
    finally:
        schedule.set_seed(0)


def check_clean(run: Callable[[], bool], seeds: Sequence[int]) -> None:
    """Right and free of reports under every seed."""
    from emulator import races

    for seed in each(seeds):
        right = run()
        assert not races.reports(), f"seed {seed}"
        assert right, f"wrong under seed {seed}"


@pytest.mark.parametrize("planted", IN_PROCESS, ids=lambda planted: planted.name)
def test_planted_bug_is_reported_every_time(planted: Planted) -> None:
    from emulator import races, schedule

    schedule.set_seed(0)  # no delays
    for _ in range(RUNS):
        with races.expect(*planted.report):
            planted.run(False)


@pytest.mark.parametrize("planted", IN_PROCESS, ids=lambda planted: planted.name)
def test_corrected_twin_is_clean(planted: Planted, seeds: Sequence[int]) -> None:
    check_clean(lambda: planted.run(True), seeds)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_no_false_report(program: Callable[[], bool], seeds: Sequence[int]) -> None:
    check_clean(program, seeds)


def test_delays_show_wrong_values(seeds: Sequence[int]) -> None:
    """What the checker finds by its clocks, some schedule shows in the result."""
    from emulator import races

    wrong = set()
    for _ in each(seeds, longest_delay_us=3000):  # longer than it takes this host to issue the next call
        wrong |= {planted.name for planted in IN_PROCESS if not planted.run(False)}
        races.clear()
    assert wrong == {planted.name for planted in IN_PROCESS}


def test_report_of_4214() -> None:
    """The first report says what is wrong, how to mend it, and where: both lines, and where the memory is from."""
    from emulator import races
    from tests.emulator.races.planted import expert_load_of_4214

    with races.expect() as found:
        expert_load_of_4214(False)
    report = found[0]
    for text in (
        "aclnnInplaceAdd on stream",
        "does not wait for aclnnReduceSum on stream",
        "To mend it, let the second stream wait for the first before the call (wait_stream",
        "  first:  aclnnReduceSum on stream",
        "writes it\n          at tests/emulator/races/planted.py:",
        "in add_layer\n          from tests/emulator/races/planted.py:",
        "in run_expert_load\n",
        "  second: aclnnInplaceAdd on stream",
        "reads it\n",
        "  memory: 32 bytes (0 to 31) of the block 0x",
    ):
        assert text in report
    assert any("was handed out again" in text and "record_stream" in text for text in found[1:])


def test_report_of_a_replay_names_the_captured_operator() -> None:
    import torch

    from emulator import races

    def doubled_in_place() -> None:
        values.mul_(2)

    values, side = torch.ones(8, device="npu"), torch.npu.Stream()
    torch.npu.synchronize()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        other = torch.zeros(8, device="npu") + 1
        doubled_in_place()
    with races.expect("replay of graph") as found:
        graph.replay()
        with torch.npu.stream(side):
            values + 1
        torch.npu.synchronize()
    assert other.numel() == 8
    (report,) = found
    assert "in it aclnnInplaceMuls, captured\n          at tests/emulator/races/test_races.py:" in report
    assert "in doubled_in_place\n          from " in report


def test_each_pair_of_places_is_reported_once() -> None:
    from emulator import races
    from tests.emulator.races.planted import missing_wait_stream

    with races.expect("does not wait for") as found:
        for _ in range(3):
            missing_wait_stream(False)
    assert len(found) == 1


def test_checker_can_be_turned_off() -> None:
    from emulator import races
    from tests.emulator.races.planted import early_pinned_reuse, missing_wait_stream

    races.set_checking(False)
    try:
        missing_wait_stream(False)
        early_pinned_reuse(False)
    finally:
        races.set_checking(True)
    assert not races.reports()
    with races.expect("does not wait for"):
        missing_wait_stream(False)


def test_memory_use_stays_bounded() -> None:
    """Many tasks on many ranges, each waited for now and then, as in a long engine run."""
    import torch

    from emulator import races

    for i in range(3000):
        torch.empty(64 + i % 500, device="npu").fill_(1)
        if i % 50 == 0:
            torch.npu.synchronize()
    assert races.statistics().num_intervals < 3000


def run_native(name: str, *arguments: str, given: str = "") -> None:
    """One of csrc/tests, built beside the libraries."""
    command = [str(Path(os.environ["EMULATOR_LIB"], name)), *arguments]
    environ = os.environ | {"EMULATOR_RACE_LOG": ""}  # their reports are not this session's
    result = subprocess.run(command, env=environ, input=given, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout


def test_random_programs_against_an_oracle() -> None:
    run_native("random_orders", "20000", "1")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 steps over touches beside a guarded range")
def test_guards_on_pinned_pages() -> None:
    run_native("guarded_pages")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64's instructions are decoded")
def test_guards_tell_bytes_apart() -> None:
    run_native("guarded_bytes", "20000", "1")


PROGRAM = """
import os, sys
import torch, torch_npu
from emulator import races
from tests.emulator.races import planted

planted.missing_wait_stream(False)
if sys.argv[1] == "fork":
    child = os.fork()
    if child == 0:
        os._exit(len(races.reports()))
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if sys.argv[1] == "clear":
    races.clear()
"""


def run_program(argument: str, **variables: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[3]
    environ = os.environ | {"PYTHONPATH": str(root)} | variables
    command = [sys.executable, "-c", PROGRAM, argument]
    return subprocess.run(command, env=environ, cwd=root, capture_output=True, text=True, timeout=300)


def test_a_process_with_findings_says_so_as_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = run_program("fork", EMULATOR_RACE_LOG=str(log))
    assert result.returncode == 66, result.stderr
    assert result.stderr.count("does not wait for") == 1
    assert "child 0" in result.stdout  # it has no findings of its own
    (file,) = log.glob("*.txt")
    assert "does not wait for" in file.read_text()


@pytest.mark.parametrize(("argument", "variables"), [("clear", {}), ("none", {"EMULATOR_RACES": "0"})])
def test_a_process_without_findings_ends_as_usual(
    argument: str, variables: dict[str, str], tmp_path: Path
) -> None:
    result = run_program(argument, EMULATOR_RACE_LOG=str(tmp_path), **variables)
    assert result.returncode == 0, result.stderr
