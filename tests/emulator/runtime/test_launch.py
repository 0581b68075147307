# SPDX-License-Identifier: Apache-2.0
"""`python -m emulator`: what the README shows, exit statuses, and what .venv-npu says without the launcher."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FIRST = "import torch, torch_npu; print((torch.ones(4, device='npu') + 1).cpu())"
RACE = """
import torch
values, side = torch.ones(4, device="npu"), torch.npu.Stream()
values.add_(1)
with torch.npu.stream(side):
    values.mul_(2)
torch.npu.synchronize()
"""
FAILURE = """
import torch
torch.arange(4, device="npu")[torch.tensor([99], device="npu")]
"""


def _plain_environment() -> dict[str, str]:
    """This process's, without the emulator."""
    names = ("EMULATOR_", "ASCEND_", "LD_LIBRARY_PATH", "TASK_QUEUE_ENABLE", "TORCH_DEVICE")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def _emulator(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "emulator", *arguments], cwd=ROOT, env=_plain_environment() | variables,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def _run(code, **variables):
    return _emulator("run", "--", "python", "-c", code, **variables)


@pytest.mark.emulator
def test_the_readmes_program():
    result = _run(FIRST)
    assert (result.returncode, result.stdout) == (0, "tensor([2., 2., 2., 2.])\n"), result.stderr


@pytest.mark.emulator
def test_torch_alone_brings_the_device():
    code = "import torch; print(torch.npu.device_count(), torch.npu.get_device_name())"
    result = _run(code, EMULATOR_DEVICES="3")
    assert result.stdout.split() == ["3", "Ascend910B1"], result.stderr


@pytest.mark.emulator
def test_a_programs_own_status():
    assert _run("raise SystemExit(5)").returncode == 5


@pytest.mark.emulator
def test_a_race_is_a_status_and_a_report():
    result = _run(RACE)
    assert result.returncode == 66
    assert "does not wait for" in result.stderr and "<string>:4" in result.stderr and "<string>:6" in result.stderr
    assert "allocated at <string>:3" in result.stderr
    assert _run(RACE, EMULATOR_RACES="0").returncode == 0


@pytest.mark.emulator
@pytest.mark.parametrize("queue", ["0", "1", "2"])
def test_a_failure_of_the_device_is_a_status_and_a_message(queue):
    result = _run(FAILURE, TASK_QUEUE_ENABLE=queue)
    assert result.returncode == 70
    assert "asynchronous failure" in result.stderr and "aclnnIndex" in result.stderr


@pytest.mark.emulator
def test_programs_started_by_a_program_are_on_the_emulator_too():
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FIRST!r}], check=True)"
    assert "tensor([2., 2., 2., 2.])" in _run(code).stdout


@pytest.mark.emulator
def test_without_the_launcher_torch_npu_says_what_to_do():
    code = "import torch; print('torch is there', flush=True); import torch_npu"
    result = subprocess.run([sys.executable, "-c", code], env=_plain_environment(), capture_output=True, text=True)
    assert "torch is there" in result.stdout
    assert "python -m emulator run -- COMMAND" in result.stderr and result.returncode == 1


def test_a_real_cann_comes_first():
    result = _emulator("run", "--", "true", ASCEND_HOME_PATH="/opt/cann")
    assert result.returncode == 1
    assert "a real CANN or NPU is here (ASCEND_HOME_PATH=/opt/cann)" in result.stderr


def test_usage():
    assert "no command" in _emulator("run").stderr
    assert "invalid choice" in _emulator("walk").stderr


@pytest.mark.emulator
def test_a_command_that_does_not_exist():
    result = _emulator("run", "--", "no-such-program")
    assert result.returncode == 1 and "no-such-program not found" in result.stderr


@pytest.mark.emulator
def test_status():
    result = _emulator("status")
    assert result.returncode == 0 and "real CANN or NPU: none" in result.stdout
