# SPDX-License-Identifier: Apache-2.0
"""The pytest plug-in, by running pytest on small projects: selection, skips, seeds, reports that fail tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
INI = """
[pytest]
addopts = --strict-markers -ra -p no:cacheprovider
markers =
    npu: an NPU
    emulator: the emulator
"""
CONFTEST = 'pytest_plugins = ["emulator.pytest_plugin"]\n'


class Project:
    """A folder with one conftest and one test file, and pytest on it in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pytest.ini").write_text(INI)

    def run(self, tests, *arguments, conftest="", loads=True, emulated=False, real=False, path=ROOT):
        """`loads`: conftest.py loads the plug-in. `emulated`: it believes to be on the emulator. `real`: it is, as
        this process is. `path`: where plug-ins are, too."""
        (self.folder / "conftest.py").write_text((CONFTEST if loads else "") + conftest)
        (self.folder / "test_it.py").write_text("import os, pytest\n" + tests)
        names = ("PYTEST_",) if real else ("EMULATOR_", "ASCEND_", "PYTEST_", "LD_LIBRARY_PATH")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        environ |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environ |= {"EMULATOR_LIB": str(self.folder)} if emulated else {}
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


MARKED = """
@pytest.mark.npu
def test_npu(): pass
@pytest.mark.emulator
def test_emulator(): pass
def test_plain(): pass
"""
# in place of the launcher: say what it was given
LAUNCH = """
import os
from emulator.launcher import launch
def run(command):
    print("launched:", command, flush=True)
    os._exit(7)
launch.run = run
"""
# a fault that shows under seed 3 only
SEEDED = """
@pytest.mark.emulator
@pytest.mark.parametrize("size", [4])
def test_fault(size): assert os.environ["EMULATOR_SEED"] != "3"
def test_plain(): pass
"""
# what the checker of a child process would have written
REPORTED = """
from pathlib import Path
def report(): Path(os.environ["EMULATOR_RACE_LOG"], "1.txt").open("a").write("race: aclnnAdd and copy\\n")
@pytest.mark.emulator
def test_unexpected(): report()
@pytest.mark.emulator
def test_expected(race_reports):
    report()
    assert "aclnnAdd" in race_reports.take()[0]
@pytest.mark.emulator
def test_own_error_first():
    report()
    assert 1 == 2
@pytest.fixture
def late():
    yield
    report()
@pytest.mark.emulator
def test_late(late): pass
"""


UNMARKED = """
def test_right(): assert os.environ["EMULATOR_SEED"] == "4"
def test_racy(tmp_path):
    with open(os.path.join(os.environ["EMULATOR_RACE_LOG"], "1.txt"), "w") as file:
        file.write("race")
"""


def test_without_the_emulator_tests_are_skipped_with_the_command(project):
    result = project.run(MARKED)
    assert result.returncode == 0 and "1 passed, 2 skipped" in result.stdout
    assert 'no Ascend NPU; on the emulator: python -m pytest -m "npu or emulator"' in result.stdout


@pytest.mark.parametrize("expression", ["npu", "emulator", "npu or emulator", "npu and not slow"])
def test_asking_for_them_starts_again_under_the_launcher(project, expression):
    result = project.run(MARKED, "-m", expression, "-q", conftest=LAUNCH)
    assert result.returncode == 7
    assert f"launched: {['python', '-m', 'pytest', '-m', expression, '-q']}" in result.stdout


def test_with_the_package_as_plugin_all_tests_run_on_the_emulator(project):
    (project.folder / "instead.py").write_text(LAUNCH)
    loads_torch = "raise SystemExit('a conftest.py came first')"
    asked = ("-p", "instead", "-p", "emulator", "-q")
    result = project.run(MARKED, *asked, conftest=loads_torch, path=project.folder)
    assert result.returncode == 7 and f"launched: {['python', '-m', 'pytest', *asked]}" in result.stdout
    (project.folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -ra -p no:cacheprovider\n")
    result = project.run(UNMARKED, "-p", "emulator", "--npu-seed", "4", loads=False, emulated=True)
    assert "1 failed, 1 passed" in result.stdout and "1 race report(s)" in result.stdout, result.stdout
    assert "python -m pytest -p emulator 'test_it.py::test_racy' --npu-seed 4" in result.stdout


def test_asking_for_others_does_not(project):
    result = project.run(MARKED, "-m", "not npu", conftest=LAUNCH)
    assert result.returncode == 0 and "1 passed, 1 skipped, 1 deselected" in result.stdout


def test_a_launcher_that_cannot_is_a_usage_error(project):
    conftest = (
        "from emulator.launcher import launch, places\n"
        "def run(command): raise places.EmulatorError('run ./scripts/setup_npu.sh')\n"
        "launch.run = run\n"
    )
    result = project.run(MARKED, "-m", "npu", conftest=conftest)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: run ./scripts/setup_npu.sh" in result.stderr


def test_on_the_emulator_all_run(project):
    result = project.run(MARKED, emulated=True)
    assert result.returncode == 0 and "3 passed" in result.stdout
    assert "emulated Ascend" in result.stdout


def test_a_failing_seed_is_printed_with_how_to_repeat_it(project):
    result = project.run(SEEDED, "--npu-schedules", "5", emulated=True)
    assert result.returncode == 1
    assert "1 failed, 3 passed, 2 skipped" in result.stdout  # seeds 1 and 2, test_plain; 4 and 5 are left out
    assert "failed under seed 3; to repeat it" in result.stdout
    assert "'test_it.py::test_fault[4]' --npu-seed 3" in result.stdout
    assert "failed under an earlier seed" in result.stdout

    repeated = project.run(SEEDED, "test_it.py::test_fault[4]", "--npu-seed", "3", emulated=True)
    assert "1 failed" in repeated.stdout and "failed under seed 3" in repeated.stdout
    assert project.run(SEEDED, "--npu-seed", "2", emulated=True).returncode == 0
    assert project.run(SEEDED, emulated=True).returncode == 0


def test_a_test_that_loops_over_the_seeds_itself(project):
    tests = """
@pytest.mark.emulator
def test_loop(npu_schedules):
    seen = [(seed, os.environ["EMULATOR_SEED"]) for seed in npu_schedules]
    assert seen == [(1, "1"), (2, "2"), (3, "3")]
@pytest.mark.emulator
def test_fault(npu_schedules):
    for seed in npu_schedules:
        assert seed != 2
"""
    result = project.run(tests, "--npu-schedules", "3", emulated=True)
    assert "1 failed, 1 passed" in result.stdout and "failed under seed 2" in result.stdout


def test_a_report_fails_the_test_that_did_not_expect_it(project):
    result = project.run(REPORTED, "-v", emulated=True)
    assert result.returncode == 1 and "2 failed, 2 passed, 1 error" in result.stdout
    assert "test_unexpected FAILED" in result.stdout and "test_expected PASSED" in result.stdout
    assert "1 race report(s)" in result.stdout and "race: aclnnAdd and copy" in result.stdout
    assert "assert 1 == 2" in result.stdout and "Captured race reports call" in result.stdout
    assert "ERROR at teardown of test_late" in result.stdout


RACES = """
import torch
def run(wait):
    values, side = torch.ones(1 << 16, device="npu"), torch.npu.Stream()
    values.add_(1)
    if wait:
        side.wait_stream(torch.npu.current_stream())
    with torch.npu.stream(side):
        values.mul_(2)
    torch.npu.synchronize()
@pytest.mark.npu
def test_missing_wait(): run(wait=False)
@pytest.mark.npu
def test_waits(): run(wait=True)
@pytest.mark.emulator
def test_taken(race_reports):
    run(wait=False)
    assert len(race_reports.take()) == 1
@pytest.mark.npu
def test_in_a_child():
    import multiprocessing
    child = multiprocessing.get_context("spawn").Process(target=run, args=(False,))
    child.start()
    child.join()
"""
FAILURE = """
import torch
@pytest.mark.npu
def test_bad_index():
    torch.arange(4, device="npu")[torch.tensor([99], device="npu")]
@pytest.mark.npu
def test_later(): print(torch.ones(3, device="npu") + 1)
"""


@pytest.mark.emulator
def test_real_races_fail_their_tests(project):
    result = project.run(RACES, "-v", real=True)
    assert result.returncode == 1 and "2 failed, 2 passed" in result.stdout, result.stdout
    assert "test_missing_wait FAILED" in result.stdout and "test_in_a_child FAILED" in result.stdout
    assert "aclnnInplaceMuls on stream" in result.stdout and "at test_it.py:10 in run" in result.stdout


@pytest.mark.emulator
def test_a_real_failure_ends_the_session(project):
    result = project.run(FAILURE, "-v", real=True)
    assert result.returncode != 0 and "test_bad_index FAILED" in result.stdout
    assert "asynchronous failure" in result.stdout and "the emulated device failed in" in result.stdout
    assert "test_later" not in result.stdout


LEFT_STREAM = """
import torch
@pytest.mark.npu
def test_leaves(): torch.npu.set_stream(torch.npu.Stream())
@pytest.mark.npu
def test_next(): assert torch.npu.current_stream() == torch.npu.default_stream()
"""


@pytest.mark.emulator
def test_a_stream_left_current_fails_its_test(project):
    result = project.run(LEFT_STREAM, "-v", real=True)
    assert "test_leaves FAILED" in result.stdout and "test_next PASSED" in result.stdout, result.stdout
    assert "as the current stream" in result.stdout
