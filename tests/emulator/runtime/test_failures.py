# SPDX-License-Identifier: Apache-2.0
"""What the emulated device cannot do, or fails to do, is said and ends in an error."""

from __future__ import annotations

import pytest

from tests.emulator.races.device_work import recent_message, run_program, runtime

pytestmark = pytest.mark.emulator

FAILING = """
stream = torch.npu.current_stream()
held = torch.ones(4).npu()
torch.npu.synchronize()
torch_npu.npu._launch_host_func(stream, print, 1)  # nobody is subscribed
"""
FAILURE = "asynchronous failure: host function on stream"


def test_an_asynchronous_failure_stays() -> None:
    program = (
        FAILING
        + """
for call in (torch.npu.synchronize, lambda: torch.ones(4).npu(), lambda: torch.npu.current_stream().query()):
    try:
        call()
    except RuntimeError as error:
        assert "no thread processes the reports" in str(error), error
    else:
        raise AssertionError("no error")
print("reached the end")
"""
    )
    finished = run_program(program, TASK_QUEUE_ENABLE="0")
    assert finished.stderr.count(FAILURE) >= 1 and "reached the end" in finished.stdout
    assert finished.returncode == 70, finished.stderr


def test_a_failure_that_nobody_looked_at_is_not_success() -> None:
    finished = run_program(FAILING, TASK_QUEUE_ENABLE="0")
    assert FAILURE in finished.stderr
    assert finished.returncode == 70, finished.stderr


@pytest.mark.parametrize("queue", ["1", "2"])
def test_a_failure_under_the_task_queue_ends_the_process(queue: str) -> None:
    finished = run_program(FAILING + "torch.npu.synchronize()\nprint('went on')\n", TASK_QUEUE_ENABLE=queue)
    assert FAILURE in finished.stderr and "went on" not in finished.stdout
    assert finished.returncode == 70, finished.stderr


@pytest.mark.parametrize("queue", ["0", "1", "2"])
def test_streams_and_copies_under_every_task_queue(queue: str) -> None:
    program = """
side = torch.npu.Stream()
source, target = torch.full((64,), 3.0).npu(), torch.zeros(64).npu()
side.wait_stream(torch.npu.current_stream())
with torch.npu.stream(side):
    torch_npu.copy_memory_(target, source, non_blocking=True)
torch.npu.current_stream().wait_stream(side)
assert (target.cpu() == 3).all()
"""
    finished = run_program(program, TASK_QUEUE_ENABLE=queue)
    assert finished.returncode == 0, finished.stderr


def test_a_missing_operator_of_the_old_interface_is_named() -> None:
    library = runtime()
    nothing = [None] * 6
    code = library.aclopCompileAndExecute(b"Conv2D", 0, *nothing[:2], 0, *nothing[:2], None, 0, 0, None, None)
    assert code == 207000
    assert "not emulated: operator Conv2D" in recent_message()


def test_a_setting_that_does_not_parse_is_fatal() -> None:
    finished = run_program("torch.npu.device_count()", EMULATOR_DEVICES="many")
    assert finished.returncode != 0
    assert "EMULATOR_DEVICES=many: expected an integer" in finished.stderr


def test_an_exception_outlives_the_blocks_that_it_frees() -> None:
    program = """
import torch_npu

for call in (
    lambda: torch.add(torch.ones(3, device="npu"), torch.ones(4, device="npu")),
    lambda: torch.ones(4, device="npu").view(torch.ones(3, device="npu").numel()),
):
    try:
        call()
    except RuntimeError as error:
        assert "exception set" not in str(error), error
    else:
        raise AssertionError("no error")
print("reached the end")
"""
    finished = run_program(program)
    assert "reached the end" in finished.stdout, finished.stderr
    assert "hook execution failed" not in finished.stderr


def test_a_child_forked_from_a_user_of_devices_is_refused() -> None:
    program = """
import os, sys
x = torch.ones(4).npu() + 1
torch.npu.synchronize()
if child := os.fork():
    print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    try:
        x + 1
    except RuntimeError as error:
        print("refused:", error, flush=True)
    sys.exit(3)
"""
    finished = run_program(program)
    assert "forked from one that uses NPUs" in finished.stdout, finished.stderr
    assert "status 3" in finished.stdout, finished.stderr
