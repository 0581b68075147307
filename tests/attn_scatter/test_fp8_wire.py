# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ascend_ext.attn_scatter import fp8_wire


def _check(x: torch.Tensor) -> float:
    """The stated bound holds; returns the largest error against the group's largest element."""
    wire = fp8_wire.encode(x)
    assert wire.dtype == torch.uint8 and wire.shape == (x.shape[0], fp8_wire.wire_bytes(x.shape[1]))
    back = fp8_wire.decode(wire, x.shape[1], x.dtype)
    assert back.dtype == x.dtype and back.shape == x.shape
    largest = torch.cat(
        [g.abs().amax(1, keepdim=True).expand_as(g) for g in x.double().split(fp8_wire.GROUP, 1)], 1
    )
    error = (back.double() - x.double()).abs()
    ulp = torch.finfo(x.dtype).eps * x.double().abs()
    slack = 1 + 1e-5  # of the scale's own rounding
    bound = torch.maximum(fp8_wire.RELATIVE_ERROR * x.double().abs(), fp8_wire.ABSOLUTE_ERROR * largest)
    assert (error <= bound * slack + ulp).all()
    assert torch.equal(back[x == 0], x[x == 0])
    return float((error / largest.clamp(min=1e-300)).max())


@settings(deadline=None)
@given(
    num_rows=st.integers(1, 5),
    width=st.integers(1, 300),
    exponent=st.integers(-25, 25),
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_error_bound(num_rows: int, width: int, exponent: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, width, generator=generator) ** 3 * 2.0**exponent
    assert _check(x.to(dtype)) <= 16 / 448 * 1.01 + torch.finfo(dtype).eps


def test_bound_is_reached() -> None:
    """Halfway between two neighbours the error is the bound, so that it could not be stated smaller."""
    x = torch.tensor([[448.0, 1.0625, 2.0**-10, 0.0]])
    back = fp8_wire.decode(fp8_wire.encode(x), 4, torch.float32)
    error = (back - x).abs()[0]
    assert error[1] == 2.0**-4 and error[2] == 2.0**-10 and error[3] == 0


def test_zero_and_broken_rows() -> None:
    x = torch.zeros(2, 130)
    assert torch.equal(fp8_wire.decode(fp8_wire.encode(x), 130, x.dtype), x)
    x[0, 5], x[1, 129] = float("nan"), float("inf")
    back = fp8_wire.decode(fp8_wire.encode(x), 130, x.dtype)
    assert back[0, :128].isnan().all() and back[1, 128:].isnan().all()
    assert not back[0, 128:].any() and not back[1, :128].any()
    tiny = torch.full((1, 128), 1e-38)
    assert not fp8_wire.decode(fp8_wire.encode(tiny), 128, tiny.dtype).any()
    assert fp8_wire.encode(torch.ones(0, 130)).shape == (0, 138)


def test_wrong_bytes_raise() -> None:
    with pytest.raises(ValueError, match="are no FP8 rows of 130 elements"):
        fp8_wire.decode(torch.zeros(2, 137, dtype=torch.uint8), 130, torch.float32)
