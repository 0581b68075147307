# SPDX-License-Identifier: Apache-2.0
"""`pip install ./emulator`: what the wheel holds, what it does to an environment, and programs, tests and ranks on
the emulator in an environment of nothing but torch, torch_npu, pytest and it, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.long_tables import long_table

ROOT = Path(__file__).resolve().parents[3]
BUILD_S, RUN_S = 3600, 300
PINS = ("torch_npu==2.13.0", "numpy", "pyyaml", "pytest", "setuptools>=77")
TWO_LINES = """import torch
print((torch.ones(4, device="npu") + 1).cpu())
"""
RACE = """import torch
values, side = torch.ones(4, device="npu"), torch.npu.Stream()
values.add_(1)
with torch.npu.stream(side):
    values.mul_(2)
torch.npu.synchronize()
"""
TESTS = """import torch
def run(waits):
    values, side = torch.ones(4, device="npu"), torch.npu.Stream()
    values.add_(1)
    if waits:
        side.wait_stream(torch.npu.current_stream())
    with torch.npu.stream(side):
        values.mul_(2)
    torch.npu.synchronize()
    assert values.tolist() == [4.0] * 4
def test_right(): run(waits=True)
def test_racy(): run(waits=False)
"""
RANKS = """import torch, torch.distributed as dist
dist.init_process_group("hccl")
torch.npu.set_device(dist.get_rank())
values = torch.full((4,), dist.get_rank() + 1.0, device="npu")
dist.all_reduce(values)
print("sum", values.tolist(), flush=True)
dist.destroy_process_group()
"""
UNTOUCHED = """import os, site, sys
before = set(sys.modules), dict(os.environ), list(sys.meta_path)
site.addsitedir({folder!r})
assert before == (set(sys.modules), dict(os.environ), list(sys.meta_path))
os.environ["EMULATOR_LIB"] = "/none"
site.addpackage({folder!r}, "ascend_emulator.pth", None)
print(sorted(type(finder).__module__ for finder in sys.meta_path if "ascend" in type(finder).__module__))
"""


def plain_environment(**variables: str) -> dict[str, str]:
    """Returns this process's without the emulator, the checkout and the checkout's caches."""
    names = ("EMULATOR_", "ASCEND_", "LD_LIBRARY_PATH", "TASK_QUEUE", "TORCH", "PYTHON", "PYTEST", "VIRTUAL_ENV",
             "VLLM_ASCEND_EXT", "XDG_", "OMP_")  # fmt: skip
    own = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return own | variables


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the wheel of a copy of emulator/, as `git` has it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "emulator", folder / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder]
    subprocess.run([*command, folder / "emulator"], check=True, capture_output=True, timeout=RUN_S)
    left = {path.relative_to(folder / "emulator").parts[0] for path in (folder / "emulator").rglob("*")}
    assert left <= set(os.listdir(ROOT / "emulator")), "building it leaves something in the sources"
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_source_and_the_start_up(wheel: Path) -> None:
    assert wheel.name.startswith("ascend_emulator-") and wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names, startup = set(archive.namelist()), archive.read("ascend_emulator.pth").decode()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "emulator"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    own = {"emulator/LICENSE", "emulator/pyproject.toml", "emulator/setup.py"}  # of the building alone
    expected = {f"ascend_{name}" for name in listed if name not in own and (ROOT / name).exists()}
    assert {name for name in names if name.startswith("ascend_emulator/")} == expected
    assert "import os" in startup and startup.count("\n") == 1


def test_without_the_emulator_an_environment_is_as_before(wheel: Path, tmp_path: Path) -> None:
    """Nothing of it is imported when Python starts, and torch_npu fails or loads as it did."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = UNTOUCHED.format(folder=str(tmp_path))
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=plain_environment(), cwd="/"
    )
    expected = "['ascend_emulator.startup', 'ascend_emulator.vllm_ascend.standins']\n"
    assert ran.returncode == 0 and ran.stdout == expected, ran.stderr


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Makes the environment and builds the libraries; returns what runs a command of the environment."""
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "venv" / "bin" / "python"
    environment = plain_environment(XDG_CACHE_HOME=str(folder / "cache"))
    create = "import subprocess, sys; subprocess.check_call([sys._base_executable, '-m', 'venv', sys.argv[1]])"
    subprocess.run([sys.executable, "-c", create, folder / "venv"], check=True, timeout=RUN_S)

    def run(*command: str, timeout: float = RUN_S) -> subprocess.CompletedProcess[str]:
        program = python.with_name(command[0])
        return subprocess.run(
            [program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
        )

    pip = ("python", "-m", "pip", "--disable-pip-version-check", "install", "--no-compile")
    if run(*pip, "torch==2.13.0+cpu", timeout=BUILD_S).returncode:  # PyPI's may be for CUDA alone (several GB)
        assert run(*pip, "torch==2.13.0", timeout=BUILD_S).returncode == 0
    installed = run(*pip, *PINS, str(wheel), timeout=BUILD_S)
    assert installed.returncode == 0, installed.stderr
    for name, text in (("two.py", TWO_LINES), ("race.py", RACE), ("test_it.py", TESTS), ("ranks.py", RANKS)):
        (folder / name).write_text(text)
    built = run("ascend-emulator", "build", timeout=BUILD_S)
    assert built.returncode == 0, built.stderr
    assert Path(built.stdout.strip()).parents[1] == folder / "cache" / "ascend-emulator"
    return run


@pytest.mark.emulator
@long_table
class TestInABareEnvironment:
    def test_status(self, bare: Run) -> None:
        told = bare("ascend-emulator", "status")
        assert told.returncode == 0 and "torch with torch_npu: supported" in told.stdout, told.stdout

    def test_a_program_of_two_lines(self, bare: Run) -> None:
        ran = bare("ascend-emulator", "run", "--", "python", "two.py")
        assert (ran.returncode, ran.stdout) == (0, "tensor([2., 2., 2., 2.])\n"), ran.stderr

    def test_a_race(self, bare: Run) -> None:
        ran = bare("ascend-emulator", "run", "--", "python", "race.py")
        assert ran.returncode == 66, ran.stderr
        assert "does not wait for" in ran.stderr
        assert "at race.py:3 in <module>" in ran.stderr and "at race.py:5 in <module>" in ran.stderr

    def test_a_file_of_tests(self, bare: Run) -> None:
        ran = bare("pytest", "-p", "ascend_emulator", "-v", "test_it.py")
        assert ran.returncode == 1 and "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
        assert "test_it.py::test_right PASSED" in ran.stdout and "test_it.py:8 in run" in ran.stdout

    def test_two_ranks(self, bare: Run) -> None:
        ran = bare("ascend-emulator", "run", "--", "torchrun", "--nproc-per-node", "2", "ranks.py")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("sum [3.0, 3.0, 3.0, 3.0]") == 2
