# SPDX-License-Identifier: Apache-2.0
"""The emulation of AscendC finds each seeded bug, names its line, and lets the same kernel pass when mended."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.ops.host_kernels import EAGER, LIBRARY, SCHEDULES, BrokenRuleError, HostKernels, Schedule, aligned
from tests.support.host_build import ROOT, host_library

BUGS = Path(__file__).parent / "seeded_bugs"
SOURCES = ("memory.cpp", "queues.cpp", "order.cpp")
NAMES = [
    name
    for source in SOURCES
    for name in re.findall(r'\{"([^"]+)", \w+\}', (BUGS / source).read_text(encoding="utf-8"))
]
NUM_WORDS = 8192
WITHOUT_CLOCKS = [Schedule(order, check_order=False) for order in (1, 2)]
# what only the clocks find: the emulation runs the scalar unit at once and each pipe in order
ORDER_FREE = {"race/S_MTE2", "race/S_V", "race/S_MTE3", "race/MTE2", "race/MTE3", "race/V"}
Run = Callable[..., torch.Tensor]


def compile_bugs(arguments: list[str | Path]) -> subprocess.CompletedProcess[str]:
    command = ["g++", "-std=c++17", "-Wall", "-I", ROOT / "csrc_ascendc" / "host", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, host_kernels: HostKernels) -> Run:
    """Runs one bug, returns `out`; raises BrokenRuleError."""
    library = tmp_path_factory.mktemp("bugs") / "libbugs.so"
    host = host_library(LIBRARY)
    sources = [BUGS / name for name in (*SOURCES, "run.cpp")]
    done = compile_bugs(["-O0", "-fPIC", "-shared", *sources, host, f"-Wl,-rpath,{host.parent}", "-o", library])
    assert done.returncode == 0, done.stderr
    native = ctypes.CDLL(str(library))
    native.bug_name.restype = ctypes.c_char_p

    def run_bug(name: str, broken: bool, cores: int, schedule: Schedule) -> torch.Tensor:
        assert native.bug_name(NAMES.index(name)) == name.encode() and native.bug_name(len(NAMES)) is None
        data = aligned(torch.arange(NUM_WORDS, dtype=torch.int32))
        out = aligned(torch.zeros(NUM_WORDS, dtype=torch.int32))
        with host_kernels.setting(cores, schedule):
            pointers = (ctypes.c_void_p(data.data_ptr()), ctypes.c_void_p(out.data_ptr()))
            code = native.run_bug(NAMES.index(name), int(broken), ctypes.c_uint32(cores), *pointers)
            if code:
                raise BrokenRuleError(host_kernels.symbol("ascend_ext_host_violation")().decode())
        return out

    return run_bug


def test_there_is_a_bug_for_each_rule() -> None:
    """Every rule the emulation can report has a seeded bug, but for those of a whole launch and a stray pipe."""
    host = ROOT / "csrc_ascendc" / "host"
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(host.rglob("*.*")))
    rules = set(re.findall(r'Fail\(\s*"([a-z0-9-]+)"', text)) | {"race", "cross-core", "cache-line"}
    assert {name.split("/")[0] for name in NAMES} == rules
    assert len(NAMES) == len(set(NAMES)) >= 24


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
def test_bug_is_found(run: Run, name: str, schedule: Schedule) -> None:
    with pytest.raises(BrokenRuleError) as caught:
        run(name, True, 2, schedule)
    assert caught.value.rule == name.split("/")[0] and caught.value.kernel == name
    file, line = caught.value.line.split(":")
    assert (BUGS / file).read_text(encoding="utf-8").splitlines()[int(line) - 1].endswith("// here")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("race/")])
def test_race_names_what_is_missing(run: Run, name: str) -> None:
    with pytest.raises(BrokenRuleError, match="is missing") as caught:
        run(name, True, 1, EAGER)
    event = {"early flag": "MTE2_V"}.get(name[5:], name[5:].split()[0])
    expected = f"HardEvent {event} " if "_" in event else f"PipeBarrier<PIPE_{event}> "
    assert expected in caught.value.what


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("race/")])
def test_lazy_schedules_show_the_race_without_clocks(run: Run, name: str) -> None:
    expected = run(name, False, 1, EAGER)
    shown = False
    for schedule in WITHOUT_CLOCKS:
        try:
            shown |= not torch.equal(run(name, True, 1, schedule), expected)
        except BrokenRuleError as broken:
            shown |= broken.rule == "uninitialised"
    assert shown == (name not in ORDER_FREE)


@pytest.mark.parametrize("cores", [1, 2, 40, 48])
def test_mended_kernels_are_clean(run: Run, cores: int) -> None:
    for name in NAMES:
        schedules = (*SCHEDULES.values(), *WITHOUT_CLOCKS)
        expected, *others = (run(name, False, cores, schedule) for schedule in schedules)
        assert all(torch.equal(expected, other) for other in others), name


def test_a_launch_on_no_core(run: Run) -> None:
    with pytest.raises(BrokenRuleError, match=r"\[launch\]"):
        run(NAMES[0], False, 0, EAGER)


COMPILE_TIME = {
    "Add: unsupported data type": "LocalTensor<bfloat16_t> t; Add(t, t, t, 8);",
    "Muls: unsupported data type": "LocalTensor<int8_t> t; Muls(t, t, int8_t(2), 8);",
    "Div: unsupported data type": "LocalTensor<int32_t> t; Div(t, t, t, 8);",
    "Duplicate: unsupported data type": "LocalTensor<int64_t> t; Duplicate(t, int64_t(2), 8);",
    "ReduceSum: unsupported data type": "LocalTensor<int32_t> t; ReduceSum(t, t, t, 8);",
    "Cast: unsupported pair": "LocalTensor<half> h; LocalTensor<int64_t> l; Cast(h, l, RoundMode::CAST_NONE, 8);",
    "And: unsupported data type": "LocalTensor<int32_t> t; And(t, t, t, 64, 1, {1, 1, 1, 8, 8, 8});",
    "ShiftRight: unsupported data type": "LocalTensor<half> t; ShiftRight(t, t, half(1.0f), 8);",
    "Compare: unsupported data type": "LocalTensor<int16_t> t; Compare(t, t, t, CMPMODE::EQ, 128);",
    "CompareScalar: unsupported": "LocalTensor<int16_t> t; CompareScalar(t, t, int16_t(1), CMPMODE::EQ, 128);",
    "BlockReduceSum: unsupported data type": "LocalTensor<int32_t> t; BlockReduceSum(t, t, 1, 64, 1, 1, 8);",
    "PairReduceSum: unsupported data type": "LocalTensor<int32_t> t; PairReduceSum(t, t, 1, 64, 1, 1, 8);",
    "SetAtomicAdd: int8, int16, int32": "SetAtomicAdd<int64_t>();",
    "SetAtomicAdd: int8, int16, int32, half": "SetAtomicAdd<uint32_t>();",
    "the scalar unit has no barrier": "PipeBarrier<PIPE_S>();",
}


def test_unsupported_dtypes_do_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "dtypes.cpp"
    statements = "\n".join(f"void F{i}() {{ {text} }}" for i, text in enumerate(COMPILE_TIME.values()))
    source.write_text(f'#include "kernel_operator.h"\nusing namespace AscendC;\n{statements}\n')
    done = compile_bugs(["-fsyntax-only", source])
    assert done.returncode != 0
    for message in COMPILE_TIME:
        assert re.search(rf"static assertion failed: .*{re.escape(message)}", done.stderr), message
    assert done.stderr.count("static assertion failed") == len(COMPILE_TIME)


def test_the_process_aborts_with_kernel_core_line_and_rule(tmp_path: Path) -> None:
    """Outside the tests nothing catches a broken rule."""
    program = tmp_path / "abort.cpp"
    program.write_text(
        '#include "kernel_operator.h"\n#include "launch.h"\nusing namespace AscendC;\n'
        'int main() { return ascendc_host::Launch("k", 2, {}, [] { SetFlag<HardEvent::V_S>(0); }); }\n'
    )
    host = host_library(LIBRARY)
    done = compile_bugs([program, host, f"-Wl,-rpath,{host.parent}", "-o", tmp_path / "abort"])
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([tmp_path / "abort"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == -6
    assert "kernel k, core 0, abort.cpp:4: [flag-unpaired] sets V_S 0" in ran.stderr
