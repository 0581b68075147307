# SPDX-License-Identifier: Apache-2.0
"""Wheels: with the channel where a compiler is, pure Python elsewhere; a clear stop where ASCEND_HOME_PATH points
to nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.host_build import ROOT
from tests.support.long_tables import long_table

PARTS = ("CMakeLists.txt", "LICENSE", "README.md", "cmake", "csrc_ascendc", "csrc_channel", "pyproject.toml")
PARTS += ("setup.py", "vllm_ascend_ext")


def wheel(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``pip wheel`` of a copy of the sources in `folder`; the wheel lies in it."""
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "lib")
            shutil.copytree(ROOT / part, source / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, source / part)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "-v",
        "-w",
        folder,
        source,
    ]
    inherited = {k: v for k, v in os.environ.items() if k not in ("ASCEND_HOME_PATH", "VLLM_ASCEND_EXT_BUILD")}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=inherited | environment)


def output_with(path: Path, site: Path, program: str) -> str:
    """What `program` prints where the wheel at `path` is installed, in `site`, and this checkout is not."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(site)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=site,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_wheel_without_a_compiler_is_pure_python_and_works(tmp_path: Path) -> None:
    done = wheel(tmp_path, CC="/no/such/cc", CXX="/no/such/c++")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "frames of mtp_output take tens of times longer" in done.stdout + done.stderr
    (path,) = tmp_path.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith(".so")]
    assert "vllm_ascend_ext/py.typed" in names  # type checkers of whoever installs it read our annotations
    program = (
        "import torch, vllm_ascend_ext; from vllm_ascend_ext import ops; "
        "from vllm_ascend_ext.mtp_output.ring.backend import installed_backend; "
        "print(vllm_ascend_ext.__file__, ops.dp_pad(torch.ones(1, 2), 1, 1, 2).tolist(), installed_backend().name)"
    )
    expected = f"{site}/vllm_ascend_ext/__init__.py [[0.0, 0.0], [1.0, 1.0]] python"
    assert output_with(path, site, program) == expected


def test_a_compiler_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    done = wheel(tmp_path, CC="/no/such/cc", CXX="/no/such/c++", VLLM_ASCEND_EXT_BUILD="channel")
    assert done.returncode != 0 and not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize("choice", ["auto", pytest.param("host", marks=long_table)])
def test_wheels_have_the_channel_in_cpp(tmp_path: Path, choice: str) -> None:
    done = wheel(tmp_path, VLLM_ASCEND_EXT_BUILD=choice)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.whl")
    assert f"-cp{sys.version_info.major}{sys.version_info.minor}-" in path.name
    site = tmp_path / "site"
    program = (
        "import numpy as np; from vllm_ascend_ext.mtp_output.ring.backend import installed_backend; "
        "backend = installed_backend(); memory = memoryview(bytearray(100)); "
        "written = backend.module.rows_write(np.zeros((2, 16), np.int32), 2, 4, 0, memory, 0); "
        "print(backend.name, backend.module.__file__, written)"
    )
    name, file, written = output_with(path, site, program).split()
    assert (name, written) == ("native", "20") and file.startswith(f"{site}/vllm_ascend_ext/lib/")


@pytest.mark.parametrize("choice", ["auto", "npu"])
def test_broken_cann_stops_the_build_and_names_the_files(tmp_path: Path, choice: str) -> None:
    broken = tmp_path / "no-cann"
    done = wheel(tmp_path, ASCEND_HOME_PATH=str(broken), VLLM_ASCEND_EXT_BUILD=choice)
    assert done.returncode != 0 and not list(tmp_path.glob("*.whl"))
    output = done.stdout + done.stderr
    assert f"{broken}/lib64/cmake" in output and "ASCConfig.cmake" in output
    assert "unset ASCEND_HOME_PATH" in " ".join(output.split())


def test_npu_build_without_cann_says_what_is_missing(tmp_path: Path) -> None:
    done = wheel(tmp_path, VLLM_ASCEND_EXT_BUILD="npu")
    assert done.returncode != 0
    assert "VLLM_ASCEND_EXT_BUILD=npu needs ASCEND_HOME_PATH" in done.stdout + done.stderr


def test_npu_build_without_torch_npu_says_what_is_missing(tmp_path: Path) -> None:
    """A CANN's package is found, and the language that it defines is used; then the binding lacks torch_npu."""
    shutil.copytree(ROOT / "tests" / "ops" / "stand_in_cann", tmp_path / "cann" / "lib64" / "cmake")
    compiler = tmp_path / "cann" / "bin" / "bisheng"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    done = wheel(tmp_path, ASCEND_HOME_PATH=str(tmp_path / "cann"))
    output = done.stdout + done.stderr
    assert done.returncode != 0 and not list(tmp_path.glob("*.whl"))
    assert "TORCH_NPU_DIR is ''" in output and "pip install --no-build-isolation" in " ".join(output.split())
