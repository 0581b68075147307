# SPDX-License-Identifier: Apache-2.0
"""The command lines of an NPU build, with a stand-in for CANN's CMake package and for both compilers."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host_build import ROOT

STAND_IN = ROOT / "tests" / "ops" / "stand_in_cann"
OPERATORS = {path.parent.name for path in (ROOT / "csrc_ascendc").glob("*/launch.cpp")} - {"host"}


def _script(path: Path, log: Path, language: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = f'exec "{sys.executable}" "{STAND_IN}/compiler.py" "{log}" {language} "$@"'
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def _cann(folder: Path, log: Path) -> Path:
    cann = folder / "cann"
    (cann / "lib64").mkdir(parents=True)
    shutil.copytree(STAND_IN, cann / "lib64" / "cmake")
    _script(cann / "bin" / "bisheng", log, "ASC")
    return cann


def _packages(folder: Path) -> Iterator[str]:
    """CMake's options for folders that look like torch and torch_npu, with empty libraries."""
    empty = folder / "empty.so"
    subprocess.run(["g++", "-shared", "-o", empty, "-x", "c++", "/dev/null"], check=True, timeout=60)
    for package, libraries in (("torch", ("torch_cpu", "c10")), ("torch_npu", ("torch_npu",))):
        (folder / package / "lib").mkdir(parents=True)
        (folder / package / "include").mkdir()
        for library in libraries:
            shutil.copy(empty, folder / package / "lib" / f"lib{library}.so")
        yield f"-D{package.upper()}_DIR={folder / package}"


def _cmake(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ASCEND", "CMAKE"))}
    command = ["cmake", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=inherited | environment)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The folder of the built libraries, and the command lines: a language, then its compiler's arguments."""
    folder = tmp_path_factory.mktemp("cann_build")
    log = folder / "log"
    cxx = _script(folder / "c++", log, "CXX")
    options = (f"-DCMAKE_CXX_COMPILER={cxx}", f"-DPython3_EXECUTABLE={sys.executable}", *_packages(folder))
    cann = _cann(folder, log)  # ASCEND_HOME_PATH alone, without what set_env.sh adds
    done = _cmake("-S", ROOT, "-B", folder / "build", *options, ASCEND_HOME_PATH=str(cann))
    assert done.returncode == 0, done.stdout + done.stderr
    log.unlink()
    targets = ("--target", "ascend_ext_kernels", "ascend_ext_npu")
    done = _cmake("--build", folder / "build", *targets, ASCEND_HOME_PATH=str(cann))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return folder / "build" / "cmake" / "cann", lines


def _compilations(lines: list[list[str]], name: str) -> list[list[str]]:
    return [line for line in lines if "-c" in line and Path(line[line.index("-c") + 1]).name == name]


def test_the_ascend_compiler_compiles_every_launch(build: tuple[Path, list[list[str]]]) -> None:
    launches = _compilations(build[1], "launch.cpp")
    assert {Path(line[line.index("-c") + 1]).parent.name for line in launches} == OPERATORS
    for line in launches:
        assert line[0] == "ASC" and {"--npu-arch=dav-2201", "-std=c++17", "-fPIC"} <= set(line)
        assert not [option for option in line if option.startswith("-DASCEND_EXT_HOST")]


def test_the_ascend_compiler_links_the_kernels(build: tuple[Path, list[list[str]]]) -> None:
    links = {Path(line[line.index("-o") + 1]).name: line for line in build[1] if "-shared" in line}
    assert links["libascend_ext_kernels.so"][0] == "ASC"
    assert links["libascend_ext_npu.so"][0] == "CXX"
    assert "-Wl,-rpath,$ORIGIN" in " ".join(links["libascend_ext_npu.so"])


def test_the_kernels_load(build: tuple[Path, list[list[str]]]) -> None:
    """The stand-in's objects need a runtime that only a link by the Ascend compiler brings."""
    library = ctypes.CDLL(str(build[0] / "libascend_ext_kernels.so"), mode=os.RTLD_NOW)
    assert library.ascend_ext_tile_expert_load is not None


def test_tilings_and_binding_are_optimised(build: tuple[Path, list[list[str]]]) -> None:
    """Though the package empties the build type's flags."""
    compiled = _compilations(build[1], "tiling.cpp") + _compilations(build[1], "binding.cpp")
    assert len(compiled) == 2 + len(OPERATORS)
    for line in compiled:
        assert line[0] == "CXX" and "-O2" in line and "--npu-arch=dav-2201" not in line


def test_a_cann_with_only_the_older_script_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "cann" / "compiler" / "tikcpp" / "ascendc_kernel_cmake" / "ascendc.cmake"
    script.parent.mkdir(parents=True)
    script.write_text("message(FATAL_ERROR included)\n")
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    done = _cmake("-S", ROOT, "-B", tmp_path / "build", python, ASCEND_HOME_PATH=str(tmp_path / "cann"))
    said = " ".join(done.stderr.split())
    assert done.returncode != 0 and "included" not in said
    assert f"{script} is there, but cannot build this project" in said and "CANN 8.5 or later" in said
