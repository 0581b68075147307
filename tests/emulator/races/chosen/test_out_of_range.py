# SPDX-License-Identifier: Apache-2.0
"""An index that names nothing fails the device; what it may have touched is not taken for untouched."""

from __future__ import annotations

import pytest

from tests.emulator.races.device_work import run_program

pytestmark = pytest.mark.emulator

PROGRAM = """
import time

side = torch.npu.Stream()
table, fresh = torch.zeros(16, 32, device="npu"), torch.ones(32, device="npu")
index = torch.tensor([2, 16]).npu()
torch.npu.synchronize()
with torch.npu.stream(side):
    table[9].copy_(fresh)
rows = table.index_select(0, index)
time.sleep(0.5)
"""


def test_a_row_that_is_not_there_counts_as_any() -> None:
    result = run_program(PROGRAM)
    assert "aclnnIndexSelect on stream 0 of npu:0 does not wait for" in result.stderr
    assert "index out of range" in result.stderr and result.returncode == 70
