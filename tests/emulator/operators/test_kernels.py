# SPDX-License-Identifier: Apache-2.0
"""AscendC kernels on the emulator's streams: that they run, and what the race checker and failures say of them."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.emulator.races.device_work import recent_message, run_program
from vllm_ascend_ext import ops

pytestmark = pytest.mark.emulator

ROOT = Path(__file__).resolve().parents[3]
INVALID_PARAM = 107000


def libraries() -> Path:
    return Path(os.environ["VLLM_ASCEND_EXT_LIB"])


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    """The launches that the binding has loaded."""
    library = ctypes.CDLL(str(libraries() / "libascend_ext_kernels.so"))
    library.ascend_ext_host_num_launches.restype = ctypes.c_uint64
    return library


def _tensor(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, device="npu")


def _add(dtype: torch.dtype) -> object:
    return ops.expert_load_add_(_tensor(4), _tensor(2, 2, dtype=dtype), _tensor())


def _norm(dtype: torch.dtype) -> object:
    return ops.add_rms_norm(*(_tensor(*shape, dtype=dtype) for shape in ((2, 8), (2, 8), (8,))), 1e-6)


CALLS: dict[str, Callable[[], object]] = {
    "expert_load_add_int32": lambda: _add(torch.int32),
    "expert_load_add_int64": lambda: _add(torch.int64),
    "expert_load_add_counts_int32": lambda: ops.expert_load_add_counts_(_tensor(4), _tensor(4), False),
    "expert_load_add_counts_int64": lambda: ops.expert_load_add_counts_(_tensor(4), _tensor(4).long(), True),
    "dp_rows": lambda: ops.dp_unpad(_tensor(4, 4), 2, 1),
    "add_rms_norm_half": lambda: _norm(torch.float16),
    "add_rms_norm_bfloat16": lambda: _norm(torch.bfloat16),
    "add_rms_norm_float": lambda: _norm(torch.float32),
    "mtp_pack_output": lambda: ops.mtp_pack_output(_tensor(2, 3), _tensor(2), _tensor(2)),
}


def test_every_kernel_is_called() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc_ascendc").glob("*/launch.cpp"))
    assert source.count("return ASCEND_EXT_LAUNCH(") == len(CALLS)
    assert all(f"ASCEND_EXT_LAUNCH({kernel}," in source for kernel in CALLS)


@pytest.mark.parametrize("kernel", CALLS)
def test_the_ascendc_source_runs(kernels: ctypes.CDLL, kernel: str) -> None:
    """Once, in the order of the stream, and no other kernel of ours."""

    def num_launches() -> dict[str, int]:
        torch.npu.synchronize()
        return {name: kernels.ascend_ext_host_num_launches(name.encode()) for name in CALLS}

    before = num_launches()
    CALLS[kernel]()
    assert num_launches() == before | {kernel: before[kernel] + 1}


def count_on_a_side_stream(correct: bool) -> bool:
    """A step's load is counted on one stream and read on another."""
    main, side = torch.npu.current_stream(), torch.npu.Stream()
    load, ids, num_tokens = _tensor(64), torch.arange(64, device="npu").view(8, 8), torch.tensor(8).int().npu()
    torch.npu.synchronize()
    ops.expert_load_add_(load, ids, num_tokens)
    if correct:
        side.wait_stream(main)
    with torch.npu.stream(side):
        total = load.sum()
    torch.npu.synchronize()
    return total.item() == 128


def overwrite_what_a_kernel_reads(correct: bool) -> bool:
    """The ids of the next step arrive while the kernel may still count those of this one."""
    main, side = torch.npu.current_stream(), torch.npu.Stream()
    load, ids, num_tokens = _tensor(64), torch.arange(64, device="npu").view(8, 8), torch.tensor(8).int().npu()
    torch.npu.synchronize()
    with torch.npu.stream(side):
        ops.expert_load_add_(load, ids, num_tokens)
    if correct:
        main.wait_stream(side)
    ids.zero_()
    torch.npu.synchronize()
    return load.tolist() == [2] * 64


@pytest.mark.parametrize(
    ("program", "report"),
    [
        (count_on_a_side_stream, ("does not wait for expert_load_add_int64", "int64.* writes it")),
        (overwrite_what_a_kernel_reads, ("does not wait for expert_load_add_int64", "int64.* reads it")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_missing_wait_around_a_kernel_is_reported(
    program: Callable[[bool], bool], report: tuple[str, ...]
) -> None:
    from emulator import races

    with races.expect(*report) as found:
        program(False)
    assert all(f"in {program.__name__}" in text for text in found)
    for _ in range(5):
        assert program(True)
    assert not races.reports()


def test_streams_that_share_only_inputs_are_clean() -> None:
    """The accesses that a kernel declares are those of its arguments: rows around them belong to others."""
    side, buffer = torch.npu.Stream(), _tensor(8, 64)
    torch.npu.synchronize()
    parts = []
    for stream, offset in itertools.product((torch.npu.current_stream(), side), (0, 4)):
        with torch.npu.stream(stream):
            parts.append(ops.dp_unpad(buffer, 2, offset))
    with torch.npu.stream(side):
        buffer[2:4].zero_()  # nobody has read these
    torch.npu.synchronize()
    assert all(bool((part == 1).all()) for part in parts)


def test_host_memory_is_refused(kernels: ctypes.CDLL) -> None:
    ids, num_tokens = torch.zeros(2, 2, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    load = _tensor(4)
    addresses = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (load, ids, num_tokens)]
    sizes = [ctypes.c_int64(size) for size in (2, 2, 4, 4)]
    code = kernels.ascend_ext_launch_expert_load_add(ctypes.c_uint32(1), None, *addresses, *sizes)
    assert code != 0 and "expert_load_add_int32: an argument" in recent_message()


BROKEN = """
#include "kernel_operator.h"
#include "launch.h"
extern "C" int launch_broken(void* stream) {
  return ascendc_host::LaunchOn(stream, "broken", 2, {}, [] {
    AscendC::SetFlag<AscendC::HardEvent::V_S>(0);  // nobody waits for it
  });
}
"""


def test_a_broken_rule_is_a_failure_of_the_device(tmp_path: Path) -> None:
    """With kernel, core, line and rule, and with the line of the program that launched it."""
    source, library = tmp_path / "broken.cpp", tmp_path / "libbroken.so"
    source.write_text(BROKEN)
    include, own = ROOT / "csrc_ascendc" / "host", libraries() / "libascend_ext_kernels.so"
    command = ["g++", "-std=c++17", "-O0", "-fPIC", "-shared", "-I", include, source, own, "-o", library]
    subprocess.run([str(part) for part in command], check=True, timeout=120)
    finished = run_program(
        "import ctypes\n"
        "torch.ones(1, device='npu')\n"
        f"assert ctypes.CDLL({str(library)!r}).launch_broken(None) == 0\n"
        "torch.npu.synchronize()\n"
    )
    assert finished.returncode != 0
    assert "broken on stream" in finished.stderr and "core 0, broken.cpp:6: [flag-unpaired]" in finished.stderr


@pytest.mark.parametrize("queue", ["1", "2"])
def test_launches_from_torch_npus_queue_keep_their_order(queue: str) -> None:
    """Arguments are freed before the queue comes to them; what runs on their memory afterwards comes later."""
    program = """
from vllm_ascend_ext import ops
assert {row.kind for row in ops.coverage(["npu"])} == {"ascendc"}
load, num_tokens = torch.zeros(64, dtype=torch.int32).npu(), torch.tensor(64, dtype=torch.int32).npu()
for step in range(50):
    ids = torch.arange(128, device="npu").view(64, 2)[:, :1] + 0
    ops.expert_load_add_(load, ids.expand(64, 2)[:, 1:], num_tokens)
    del ids
    torch.full((64,), step, device="npu")
expected = torch.zeros(64, dtype=torch.int32)
expected[::2] = 50
assert torch.equal(load.cpu(), expected), load.cpu()
"""
    finished = run_program(program, TASK_QUEUE_ENABLE=queue)
    assert finished.returncode == 0, finished.stderr


def test_a_library_that_does_not_load_says_why(tmp_path: Path) -> None:
    (tmp_path / "libascend_ext_npu.so").write_text("not a library")
    finished = run_program(
        "from vllm_ascend_ext import ops\nprint(ops.coverage(['npu'])[0].reason)",
        VLLM_ASCEND_EXT_LIB=str(tmp_path),
    )
    assert "libascend_ext_npu.so is built, but does not load: " in finished.stdout, finished.stderr
    assert "file too short" in finished.stdout or "invalid ELF header" in finished.stdout
