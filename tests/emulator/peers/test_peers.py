# SPDX-License-Identifier: Apache-2.0
"""The runner of other projects' tests, on a suite in small: every outcome, a death, a deadline, a failed device, a
race, and what is said of each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from emulator.peers.command import process_variables
from emulator.peers.models import CONFIGS, write_hub_cache
from emulator.peers.processes import Runner
from emulator.peers.reasons import LONGEST, reason
from emulator.peers.results import read, summary, write
from emulator.peers.suites import SUITES, Suite
from scripts.pages.emulator_coverage import tables, whose

TINY = Suite("tiny", "a tiny suite", "nobody", ("tests/test_*.py",), preloads=("pytest",), deadline_s=5.0)

OUTCOMES = """
import os, signal, time, unittest
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2, "not one"
def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
def test_hangs(): time.sleep(600)
@pytest.mark.skip(reason="no such machine")
def test_is_skipped(): pass
@pytest.mark.xfail
def test_is_expected_to_fail(): assert False
def test_passes_behind_them(): assert os.environ["HF_HUB_OFFLINE"] == "1"

@pytest.fixture
def broken():
    yield
    raise RuntimeError("not emulated: aclrtFancy")
def test_fails_at_its_end(broken): pass

class OldStyle(unittest.TestCase):
    def test_of_unittest(self): self.assertEqual(1, 1)
"""

DEVICE = """
import torch, torch_npu

def test_values(): assert (torch.ones(3, device="npu") + 1).cpu().tolist() == [2, 2, 2]
def test_has_a_race():
    value = torch.ones(4096, device="npu")
    torch.npu.synchronize()
    with torch.npu.stream(torch.npu.Stream()):
        value.add_(1)
    value.mul_(2)
    torch.npu.synchronize()
def test_breaks_the_device():
    torch.ones(3, device="npu").index_select(0, torch.tensor([7], device="npu"))
def test_the_next_process_has_a_device(): assert torch.ones(2, device="npu").sum().item() == 2
"""


def run(folder: Path, suite: Suite, source: str) -> Any:
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text(source)
    (folder / "scratch").mkdir()
    variables = process_variables(os.environ, folder / "scratch", None)
    runner = Runner(folder, variables, suite, sys.executable)
    try:
        assert suite.files(folder) == ["tests/test_it.py"]
        return runner.run("tests/test_it.py")
    finally:
        runner.close()


def of(result: Any, kind: str) -> set[str]:
    return {test.rpartition("::")[2] for test, outcome in result.outcomes.items() if outcome == kind}


def test_every_test_of_a_file_has_its_outcome(tmp_path: Path) -> None:
    result = run(tmp_path, TINY, OUTCOMES)
    assert of(result, "passed") == {"test_passes", "test_passes_behind_them", "test_of_unittest"}
    assert of(result, "failed") == {"test_fails", "test_dies", "test_hangs", "test_fails_at_its_end"}
    assert of(result, "skipped") == {"test_is_skipped"} and of(result, "xfailed") == {"test_is_expected_to_fail"}
    why = {test.rpartition("::")[2]: words for test, words in result.why.items()}
    assert "not one" in why["test_fails"] and why["test_hangs"] == "deadline"
    assert "status -9" in why["test_dies"] and why["test_fails_at_its_end"] == "no aclrtFancy"
    assert "no such machine" in why["test_is_skipped"]


def test_a_file_that_cannot_be_read_is_one_failure(tmp_path: Path) -> None:
    result = run(tmp_path, TINY, "import no_such_module_of_anyone\n")
    assert list(result.outcomes.values()) == ["failed"]
    assert list(result.why.values()) == ["no module no_such_module_of_anyone"]


def test_a_process_that_ends_before_its_tests_is_one_failure(tmp_path: Path) -> None:
    result = run(tmp_path, TINY, "import os\nos._exit(3)\n")
    assert result.outcomes == {"tests/test_it.py": "failed"} and "status 3" in result.why["tests/test_it.py"]


def test_a_file_without_a_test_is_the_suite_s_failure(tmp_path: Path) -> None:
    result = run(tmp_path, TINY, "import os\n")
    assert result.why == {"tests/test_it.py": "the suite: a file without a test"}


@pytest.mark.emulator
def test_a_failed_device_fails_one_test_and_a_race_is_counted(tmp_path: Path) -> None:
    suite = Suite("tiny", "", "", ("tests/test_*.py",), preloads=("pytest", "torch", "torch_npu"), deadline_s=60.0)
    result = run(tmp_path, suite, DEVICE)
    assert of(result, "passed") == {"test_values", "test_has_a_race", "test_the_next_process_has_a_device"}
    assert of(result, "failed") == {"test_breaks_the_device"}
    assert "index" in next(iter(result.why.values()))
    assert len(result.reports) == 1 and "does not wait for" in result.reports[0]
    assert summary(result)["race_reports"] == 1
    assert set(result.versions) >= {"torch", "torch_npu"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("E   RuntimeError: aclnnQr or aclnnQrGetWorkspaceSize not in libopapi.so", "no operator aclnnQr"),
        ("RuntimeError: not emulated: operator Qr", "no operator Qr (aclop)"),
        ("AttributeError: '_OpNamespace' '_C_ascend' object has no attribute 'fancy'", "no operator fancy"),
        ("RuntimeError: 0 active drivers ([]). There should only be one.", "a device's Triton"),
        ("> _fill_kernel[(n,)](x)\nE   TypeError: 'function' object is not subscriptable", "a device's Triton"),
        (
            "> table[3]\nE   TypeError: 'function' object is not subscriptable",
            "TypeError: 'function' object is not subscriptable",
        ),
        (
            "NPU out of memory. Tried to allocate 3.38 GiB (NPU 0; 4.00 GiB total capacity; 1.20 GiB",
            "more memory than an NPU's 4.00 GiB",
        ),
        (
            'E  AssertionError: "Expected all tensors to be on the same device, but found at least two devices," '
            'does not match "Expected all tensors to be on the same device, but got out is on npu:0"',
            "the suite: this torch has other words for operands on two devices",
        ),
        ("ModuleNotFoundError: No module named 'npugraph_ex.core'", "no module npugraph_ex.core"),
        ("    assert x\nE   AssertionError: at 0x7ff0aa12 by 1.234567e-05", "AssertionError: at … by …"),
        ("E   " + "long " * 100, ("long " * 100)[: LONGEST - 1] + "…"),
        (
            "E   the device failed: asynchronous failure: aclnnCdist on stream 0 of npu:0: not for 'Half'\n",
            "aclnnCdist: not for 'Half'",
        ),
        ("NotImplementedError: not emulated: a compressor", "NotImplementedError: not emulated: a compressor"),
        ("", "no message"),
    ],
)
def test_reasons(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_results_are_kept_in_order_and_counted_in_the_page(tmp_path: Path) -> None:
    path = tmp_path / "results" / "tiny.json"
    assert read(path) == {"files": {}}
    content = {
        "suite": "tiny", "title": "A tiny suite", "source": "nobody, v1", "versions": {"torch": "2.13.0"},
        "files_of_suite": 5,
        "files": {
            "tests/b/test_b.py": {"failed": 2, "why_failed": {"no operator aclnnB": 2}},
            "tests/a/test_a.py": {"passed": 3, "skipped": 1, "why_skipped": {"Skipped: no": 1}, "race_reports": 1},
        },
    }  # fmt: skip
    write(path, content)
    assert list(json.loads(path.read_text())["files"]) == ["tests/a/test_a.py", "tests/b/test_b.py"]
    text = "\n".join("\n".join(part) for part in tables([read(path)]))
    assert "| A tiny suite | nobody, v1 | 2 of 5 | 1 | 3 | 2 | 1 |" in text
    assert "| `no operator aclnnB` | 2 | 1 | no such operator here |" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("no operator Qr (aclop)", "no such operator here"),
        ("no aclrtFancy", "not emulated, by name"),
        ("NotImplementedError: a compressor is not emulated", "not emulated, by name"),
        ("the suite: it compares with itself", "the suite's"),
        ("AssertionError: result error", "open"),
    ],
)
def test_whose_a_failure_is(words: str, expected: str) -> None:
    assert whose(words) == expected


def test_models_are_found_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    write_hub_cache(tmp_path)
    from huggingface_hub import hf_hub_download

    for name, config in CONFIGS.items():
        found = hf_hub_download(name, "config.json", cache_dir=tmp_path, local_files_only=True)
        assert json.loads(Path(found).read_text()) == config


def test_every_suite_says_where_it_comes_from() -> None:
    for name, suite in SUITES.items():
        assert suite.name == name and suite.title and ", " in suite.source and suite.patterns
