# SPDX-License-Identifier: Apache-2.0
"""Products, factors, triangular systems and distances on the emulator, against float64 on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize("mode", ("reduced", "complete", "r"))
def test_qr(mode: str) -> None:
    x = torch.randn(2, 5, 3)
    q, r = torch.linalg.qr(x.npu(), mode=mode)
    wanted_q, wanted_r = torch.linalg.qr(x, mode=mode)
    assert q.shape == wanted_q.shape and r.shape == wanted_r.shape
    assert_close(r.tril(-1), torch.zeros_like(wanted_r))
    assert_close(r.mT @ r, x.double().mT @ x.double())
    if mode != "r":
        assert_close(q @ r, x.double())
        assert_close(q.mT @ q, torch.eye(q.shape[-1]).expand(2, -1, -1))


@pytest.mark.parametrize("upper", (False, True))
@pytest.mark.parametrize("transpose", (False, True))
def test_triangular_solve(upper: bool, transpose: bool) -> None:
    a = torch.randn(2, 4, 4) / 4 + torch.eye(4)
    a = a.triu() if upper else a.tril()
    b = torch.randn(2, 4, 3)
    x, copy = torch.triangular_solve(b.npu(), a.npu(), upper=upper, transpose=transpose)
    assert_close((a.mT if transpose else a).double() @ x.cpu().double(), b.double())
    assert torch.equal(copy.cpu(), a)


def test_renorm() -> None:
    x = torch.randn(4, 6) * 3
    expected = torch.renorm(x.double(), 2, 0, 5.0)
    assert_close(torch.renorm(x.npu(), 2, 0, 5.0), expected)
    assert_close(x.npu().renorm_(2, 0, 5.0), expected)
    assert not torch.equal(expected, x.double())


def test_affine_grid() -> None:
    theta = torch.randn(2, 2, 3)
    for align_corners in (False, True):
        expected = torch.nn.functional.affine_grid(theta.double(), [2, 1, 4, 5], align_corners=align_corners)
        actual = torch.nn.functional.affine_grid(theta.npu(), [2, 1, 4, 5], align_corners=align_corners)
        assert_close(actual, expected)


def test_a_batch_of_one_counts_for_all() -> None:
    """op-plugin passes an expanded operand as it was before, where TORCH_NPU_USE_COMPATIBLE_IMPL is set."""
    program = (
        "import torch, torch_npu\n"
        "torch.npu.set_compile_mode(jit_compile=False)\n"
        "a, b = torch.arange(6.).reshape(1, 2, 3), torch.arange(48.).reshape(4, 3, 4)\n"
        "result = torch.bmm(a.npu().expand(4, 2, 3), b.npu())\n"
        "assert torch.equal(result.cpu(), torch.bmm(a.expand(4, 2, 3), b))\n"
    )
    environ = os.environ | {"TORCH_NPU_USE_COMPATIBLE_IMPL": "1"}
    found = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]


def test_floats_do_not_go_into_integers() -> None:
    integers = torch.ones(3, dtype=torch.int64).npu()
    for change in (integers.add_, integers.sub_, integers.mul_):
        with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
            change(torch.ones(3).npu())
    assert integers.tolist() == [1, 1, 1]  # and the device goes on


def test_distances_of_half_precision() -> None:
    a, b = torch.randn(4, 3).half(), torch.randn(5, 3).half()
    assert_close(torch.cdist(a.npu(), b.npu()), torch.cdist(a.double(), b.double()))
