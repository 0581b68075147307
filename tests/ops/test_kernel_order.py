# SPDX-License-Identifier: Apache-2.0
"""Every flag and barrier of the AscendC kernels, taken out one at a time: the emulation must miss each.

Compiles a kernel a mutant, so it runs only with VLLM_ASCEND_EXT_LONG_TESTS=1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.ops.cases import counts_case, load_case, norm_case, pack_case, rows_case
from tests.ops.host_kernels import EAGER, LIBRARY, BrokenRuleError, HostKernels
from tests.support.host_build import ROOT, host_library
from tests.support.long_tables import long_table

SOURCES = ROOT / "csrc_ascendc"
RACES = {"race", "flag-unpaired", "flag-unset", "flag-doubled", "uninitialised"}


class Mutant(NamedTuple):
    """`header` of `operator` without the synchronisation that starts on `line` (1-based)."""

    operator: str
    header: str
    line: int
    text: str


def _mutants() -> Iterator[Mutant]:
    """A flag's Set and Wait go together when they follow each other; apart they are two mutants."""
    pattern = re.compile(r"(AscendC::(PipeBarrier|SetFlag|WaitFlag)<|\bOrder<AscendC)")
    for path in sorted(SOURCES.glob("*/*.h")):
        if path.parent.name == "host":
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if pattern.search(line) and not ("WaitFlag" in line and "SetFlag" in lines[number - 2]):
                yield Mutant(path.parent.name, path.name, number, line.strip())


MUTANTS = list(_mutants())


def _exercise(kernels: HostKernels) -> dict[str, Callable[[], object]]:
    def norms() -> None:
        for width, dtype in ((64, torch.float16), (5, torch.float32), (9000, torch.float32)):
            kernels.add_rms_norm(*norm_case(300 if width < 100 else 3, width, dtype, 1))

    def counts() -> None:
        for is_cumsum in (False, True):
            kernels.expert_load_add_counts_(*counts_case(9000, is_cumsum, torch.int64, 1), is_cumsum)

    def load() -> None:
        for experts in (
            250,
            257,
            600,
        ):  # in an odd and an even number of slots; by the scalar unit
            load, ids, num_tokens = load_case(9000, 8, experts, torch.int64, 1)
            kernels.expert_load_add_(load, ids, num_tokens.fill_(9000))

    return {
        "add_rms_norm": norms,
        "dp_rows": lambda: kernels.dp_pad(*rows_case(600, 500, torch.float32, 1)),
        "expert_load": load,
        "expert_load_counts": counts,
        "mtp_pack": lambda: kernels.mtp_pack_output(*pack_case(600, 4, 20, 1)),
    }


def _compile(mutant: Mutant, folder: Path) -> Path:
    copy = folder / "csrc_ascendc"
    shutil.copytree(SOURCES, copy)
    path = copy / mutant.operator / mutant.header
    lines = path.read_text(encoding="utf-8").splitlines()
    last = mutant.line + 1 if "SetFlag" in mutant.text and "WaitFlag" in lines[mutant.line] else mutant.line
    for index in range(mutant.line - 1, last):
        lines[index] = re.sub(
            r"(if \(.*\) )?AscendC::(PipeBarrier|SetFlag|WaitFlag)<.*|Order<AscendC.*", "", lines[index]
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    host, library = host_library(LIBRARY), folder / "libmutant.so"
    tiling = [file for file in copy.glob(f"{mutant.operator}/tiling.cpp")]
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-DASCEND_EXT_HOST",
        "-I",
        copy / "host",
        "-I",
        copy,
    ]
    command += [copy / mutant.operator / "launch.cpp", *tiling, "-Wl,-Bsymbolic", host]
    command += [f"-Wl,-rpath,{host.parent}", "-o", library]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return library


def test_there_are_mutants_of_every_kernel_with_flags() -> None:
    assert {mutant.operator for mutant in MUTANTS} == {path.parent.name for path in SOURCES.glob("*/kernel.h")}
    assert len(MUTANTS) >= 24


@long_table
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.operator}/{mutant.header}:{mutant.line}")
def test_missing_synchronisation_is_found(mutant: Mutant, tmp_path: Path) -> None:
    kernels = HostKernels(_compile(mutant, tmp_path))
    with kernels.setting(1, EAGER), pytest.raises(BrokenRuleError) as caught:
        _exercise(kernels)[mutant.operator]()
    assert caught.value.rule in RACES
