# SPDX-License-Identifier: Apache-2.0
"""Runs pytest on the emulator: where tests run, race reports that fail them, seeds.

``pytest -p`` with the package's name runs all tests on the emulator: pytest starts itself again under the
launcher. A conftest.py that loads this file leaves the choice to markers: ``npu`` runs on a real NPU where there
is one, else on the emulator; ``emulator`` on the emulator only. Without the emulator both are skipped, but when
the marker expression asks for nothing else (``-m npu``) pytest starts itself again.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest

from .findings import Findings, Schedule
from .launcher import environment, launch
from .launcher.places import PACKAGE, PLACES, EmulatorError
from .page.document import write_page
from .selection import selects_only
from .startup import LIBRARIES

MARKERS = ("npu", "emulator")
COMMAND = 'python -m pytest -m "npu or emulator"'
SEED = "npu_seed"

_FINDINGS = pytest.StashKey[Findings]()
_SCHEDULE = pytest.StashKey[Schedule]()
_FAILED = pytest.StashKey[set[str]]()  # tests that failed under a seed, without the seed


def on_emulator() -> bool:
    """Returns whether the launcher started this process."""
    return bool(os.environ.get(LIBRARIES))


def _takes_all(config: pytest.Config) -> bool:
    """Returns whether every test is to run on the emulator: the package itself is a plug-in, by ``-p``."""
    return bool(config.pluginmanager.hasplugin(PACKAGE))


def _is_watched(item: pytest.Item) -> bool:
    return _takes_all(item.config) or any(item.get_closest_marker(name) for name in MARKERS)


def _start_again(config: pytest.Config) -> None:
    """Becomes the same pytest on the emulator."""
    try:
        launch.run([PLACES.python, "-m", "pytest", *config.invocation_params.args])
    except EmulatorError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("emulator", "emulated Ascend")
    group.addoption(
        "--npu-schedules", type=int, default=0, metavar="N",
        help="run every npu and emulator test under the seeds 1 to N of delays, up to its first failure",
    )  # fmt: skip
    group.addoption(
        "--npu-seed", type=int, default=None, metavar="S", help="run under this seed only (default: 0, no delays)"
    )
    group.addoption(
        "--npu-page", type=Path, default=None, metavar="FILE",
        help="draw all race reports of the session, also those that tests expect, as an HTML file",
    )  # fmt: skip


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Starts again under the launcher where all tests are to run there: before a conftest.py imports torch, which
    loads torch_npu, and around pytest's own wrapper, which takes the output away."""
    if not on_emulator() and _takes_all(early_config):
        _start_again(early_config)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Starts again under the launcher when only tests of the emulator are asked for."""
    if on_emulator() or environment.real_cann(os.environ) or not selects_only(config.option.markexpr, MARKERS):
        return
    _start_again(config)


def pytest_configure(config: pytest.Config) -> None:
    """Makes a fresh folder for the race reports of this process and its children."""
    schedules, seed = config.getoption("npu_schedules"), config.getoption(SEED)
    config.stash[_SCHEDULE] = Schedule(schedules, seed, on_emulator())
    config.stash[_FAILED] = set()
    declared = [line.partition(":")[0].strip() for line in config.getini("markers")]
    for name in MARKERS:
        if name not in declared:
            config.addinivalue_line("markers", f"{name}: runs on the emulator of an Ascend NPU")
    if on_emulator():
        (PLACES.cache / "reports").mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=PLACES.cache / "reports")
        os.environ["EMULATOR_RACE_LOG"] = folder
        config.stash[_FINDINGS] = Findings(Path(folder))


def pytest_unconfigure(config: pytest.Config) -> None:
    if findings := config.stash.get(_FINDINGS, None):
        if page := config.getoption("npu_page"):
            write_page(findings.folder, page)
        shutil.rmtree(findings.folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here, with the command that runs it."""
    if on_emulator():
        return
    reasons = {"npu": f"no Ascend NPU; on the emulator: {COMMAND}", "emulator": f"on the emulator: {COMMAND}"}
    if found := environment.real_cann(os.environ):
        import torch

        reasons = dict.fromkeys(MARKERS, f"a real CANN is here ({found}), but no NPU that works")
        if hasattr(torch, "npu") and torch.npu.is_available():
            reasons = {"emulator": "checks the emulator, and this machine has a real NPU"}
    for item in items:
        marker = next((name for name in MARKERS if item.get_closest_marker(name)), None)
        if marker in reasons:
            item.add_marker(pytest.mark.skip(reason=reasons[marker]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes one run a seed, unless the test loops over ``npu_schedules`` itself."""
    seeds = metafunc.config.stash[_SCHEDULE].seeds
    if len(seeds) > 1 and _is_watched(metafunc.definition) and "npu_schedules" not in metafunc.fixturenames:
        metafunc.fixturenames.append(SEED)
        metafunc.parametrize(SEED, seeds, ids=[f"seed{seed}" for seed in seeds])


@pytest.fixture
def npu_seed(request: pytest.FixtureRequest) -> int:
    """Returns the seed of the delays that this test runs under."""
    return request.config.stash[_SCHEDULE].current


@pytest.fixture
def npu_schedules(request: pytest.FixtureRequest) -> Iterable[int]:
    """Returns the seeds to try, for a test that loops itself; each is in force while the loop stands at it."""
    return request.config.stash[_SCHEDULE].each()


@pytest.fixture
def race_reports(request: pytest.FixtureRequest) -> Findings:
    """Gives the checker's findings; what a test has taken does not fail it."""
    if _FINDINGS not in request.config.stash:
        pytest.skip("only the emulator has a race checker")
    return request.config.stash[_FINDINGS]


def _without_seed(nodeid: str) -> str:
    return re.sub(r"\[seed\d+\]$|(?<=\[)seed\d+-|-seed\d+(?=\]$)", "", nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if not _is_watched(item):
        return
    if _without_seed(item.nodeid) in item.config.stash[_FAILED]:
        pytest.skip("failed under an earlier seed")
    schedule = item.config.stash[_SCHEDULE]
    callspec = getattr(item, "callspec", None)
    schedule.use(callspec.params.get(SEED, schedule.seeds[0]) if callspec else schedule.seeds[0])


def _check(item: pytest.Item) -> None:
    findings = item.config.stash[_FINDINGS]
    if failure := findings.failure():
        item.session.shouldfail = f"the emulated device failed in {item.nodeid}; later results would mean nothing"
        pytest.fail(failure, pytrace=False)
    if reports := findings.take():
        pytest.fail("\n\n".join([f"{len(reports)} race report(s)", *reports]), pytrace=False)


def _check_current_stream() -> None:
    """Fails a test that leaves a side stream current, where it would meet the side streams of later tests."""
    torch = sys.modules.get("torch")
    if "torch_npu" not in sys.modules or torch is None or not torch.npu.is_initialized():
        return
    current, default = torch.npu.current_stream(), torch.npu.default_stream()
    if current != default:
        torch.npu.set_stream(default)
        pytest.fail(f"left {current} as the current stream", pytrace=False)


def _checked(item: pytest.Item) -> Generator[None]:
    try:
        yield
    except (Exception, pytest.fail.Exception):
        # the test's own error comes first; what the checker saw is shown below it
        if findings := item.config.stash.get(_FINDINGS, None):
            if failure := findings.failure():
                item.session.shouldfail = f"the emulated device failed in {item.nodeid}"
                item.add_report_section("call", "device failure", failure)
            if reports := findings.take():
                item.add_report_section("call", "race reports", "\n\n".join(reports))
        raise
    if _FINDINGS in item.config.stash:
        _check(item)
        _check_current_stream()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Reports that the test has not taken fail it; so does a failure of the device."""
    return (yield from _checked(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Checks the same for what fixtures do at their end."""
    return (yield from _checked(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Says with a failure which seed it was, and how to repeat it."""
    report = yield
    schedule = item.config.stash[_SCHEDULE]
    if report.failed and _is_watched(item) and schedule.current != 0:
        test = _without_seed(item.nodeid)
        item.config.stash[_FAILED].add(test)
        asked = f"-p {PACKAGE}" if _takes_all(item.config) else "-m 'npu or emulator'"
        repeat = f"python -m pytest {asked} '{test}' --npu-seed {schedule.current}"
        report.sections.append(("emulator", f"failed under seed {schedule.current}; to repeat it:\n  {repeat}"))
    return report


def pytest_report_header(config: pytest.Config) -> Iterator[str]:
    if on_emulator():
        yield f"emulated Ascend: {os.environ[LIBRARIES]}, seeds {config.stash[_SCHEDULE].describe()}"
