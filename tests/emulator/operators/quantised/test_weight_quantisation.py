# SPDX-License-Identifier: Apache-2.0
"""Products with quantised weights and rotations to int4 on the emulator, against float64.

Shapes: M rows, K inner size, N columns, B matrices.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator


def packed(values: torch.Tensor) -> torch.Tensor:
    """Eight int4 values of the last dimension a word, the first in the lowest bits."""
    words = []
    for eight in values.reshape(-1, 8).tolist():
        word = sum((value & 15) << (4 * place) for place, value in enumerate(eight))
        words.append(word - (1 << 32) if word >= 1 << 31 else word)
    return torch.tensor(words, dtype=torch.int32).reshape(*values.shape[:-1], -1)


def unpacked(words: torch.Tensor) -> torch.Tensor:
    rows = []
    for word in words.flatten().tolist():
        nibbles = [(word >> (4 * place)) & 15 for place in range(8)]
        rows += [nibble - 16 if nibble > 7 else nibble for nibble in nibbles]
    return torch.tensor(rows, dtype=torch.int8).reshape(*words.shape[:-1], -1)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("form", ("int8", "int8 transposed", "int4", "int4 transposed"))
@pytest.mark.parametrize("group_size", (0, 32))
@pytest.mark.parametrize("inner_precise", (0, 1))
def test_weight_quant_batchmatmul(dtype: torch.dtype, form: str, group_size: int, inner_precise: int) -> None:
    import torch_npu

    M, K, N = 5, 80, 16
    limit = 8 if form.startswith("int4") else 128
    weight = torch.randint(-limit, limit, (K, N), dtype=torch.int8)
    num_groups = 1 if group_size == 0 else -(-K // group_size)
    x, scale = torch.randn(M, K).to(dtype), (torch.rand(num_groups, N) / 16).to(dtype)
    offset, bias = torch.randint(-3, 4, (num_groups, N)).to(dtype), torch.randn(N)
    on_device = {
        "int8": lambda: weight.npu(),
        "int8 transposed": lambda: weight.t().contiguous().npu().t(),
        "int4": lambda: packed(weight).npu(),
        "int4 transposed": lambda: packed(weight.t().contiguous()).npu().t(),
    }[form]()
    result = torch_npu.npu_weight_quant_batchmatmul(
        x.npu(), on_device, scale.npu(), offset.npu(), bias=bias.npu(), antiquant_group_size=group_size,
        inner_precise=inner_precise,
    )  # fmt: skip
    rows = torch.arange(K) // (group_size or K)
    wide = (weight.double() + offset.double()[rows]) * scale.double()[rows]
    assert result.dtype == dtype
    assert_close(result, x.double() @ wide + bias.double())


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("clip_ratio", (None, 0.75))
def test_kronecker_quant(dtype: torch.dtype, clip_ratio: float | None) -> None:
    import torch_npu

    x, p1, p2 = torch.randn(6, 8, 16).to(dtype), torch.randn(8, 8).to(dtype), torch.randn(16, 16).to(dtype)
    x[2] = 0
    words, scales = torch_npu.npu_kronecker_quant(x.npu(), p1.npu(), p2.npu(), clip_ratio)
    product = p1.double() @ x.double() @ p2.double()
    expected = product.abs().amax((1, 2)) / (7 * (clip_ratio or 1))
    assert_close(scales, expected)
    assert (words.dtype, words.shape, scales.dtype) == (torch.int32, (6, 8, 2), torch.float32)
    exact = (product / expected.masked_fill(expected == 0, 1)[:, None, None]).clamp(-8, 7)
    assert (unpacked(words.cpu()).double() - exact).abs().max() <= 0.5 + 1e-3


def test_a_largest_value_of_its_own_is_refused() -> None:
    program = (
        "import torch, torch_npu\n"
        "x, p1, p2 = (torch.ones(s, dtype=torch.float16).npu() for s in ((1, 8, 8), (8, 8), (8, 8)))\n"
        "torch_npu.npu_kronecker_quant(x, p1, p2, dst_type_max=6.0)\n"
        "torch.npu.synchronize()\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode != 0 and "largest value of its own" in found.stderr


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_dynamic_quant_to_int4(dtype: torch.dtype) -> None:
    import torch_npu

    x = torch.randn(3, 5, 16).to(dtype)
    words, scales = torch_npu.npu_dynamic_quant(x.npu(), dst_type=torch.quint4x2)
    wanted = x.double().abs().amax(-1) / 7
    assert (words.dtype, words.shape) == (torch.int32, (3, 5, 2))
    assert_close(scales, wanted)
    assert (unpacked(words.cpu()).double() - x.double() / wanted[..., None]).abs().max() <= 0.5 + 1e-3


def test_dynamic_quant_with_offsets_and_groups() -> None:
    import torch_npu

    x, smooth, ends = (
        torch.randn(6, 16).half(),
        torch.rand(3, 16).half(),
        torch.tensor([2, 2, 5], dtype=torch.int32),
    )
    values, scales, offsets = torch_npu.npu_dynamic_quant_asymmetric(
        x.npu(), smooth_scales=smooth.npu(), group_index=ends.npu()
    )
    rows = x.double()
    for row, group in ((0, 0), (1, 0), (2, 2), (3, 2), (4, 2)):  # the last row belongs to none
        rows[row] *= smooth[group].double()
    wanted = (rows.amax(-1) - rows.amin(-1)) / 255
    assert_close(scales, wanted)
    assert_close(offsets, 127 - rows.amax(-1) / wanted)
    exact = rows / wanted[:, None] + (127 - rows.amax(-1) / wanted)[:, None]
    assert (values.cpu().double() - exact).abs().max() <= 0.5 + 1e-3


def test_quant_matmul_of_int4() -> None:
    import torch_npu

    x, weight = torch.randint(-8, 8, (5, 64), dtype=torch.int8), torch.randint(-8, 8, (64, 16), dtype=torch.int8)
    scale, row_scale = torch.rand(16), torch.rand(5)
    result = torch_npu.npu_quant_matmul(
        packed(x).npu(),
        packed(weight).npu(),
        scale.npu(),
        pertoken_scale=row_scale.npu(),
        output_dtype=torch.bfloat16,
    )
    assert_close(result, x.double() @ weight.double() * scale.double() * row_scale.double()[:, None])


@pytest.mark.parametrize("divides", (False, True))
def test_add_rms_norm_quant(divides: bool) -> None:
    import torch_npu

    x1, x2, gamma, beta = (torch.randn(shape).half() for shape in ((4, 16), (4, 16), (16,), (16,)))
    scale, offset = torch.rand(16) + 0.5, torch.randint(-9, 9, (16,), dtype=torch.int32)
    scale = scale if divides else scale * 20
    y, _, x = torch_npu.npu_add_rms_norm_quant(
        x1.npu(), x2.npu(), gamma.npu(), scale.npu(), offset.npu(), beta.npu(), epsilon=1e-6, div_mode=divides
    )
    total = (x1 + x2).double()
    normed = total / (total.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gamma.double() + beta.double()
    exact = (normed / scale.double() if divides else normed * scale.double()) + offset.double()
    assert_close(x, total)
    assert y.dtype == torch.int8
    assert (y.cpu().double() - exact.clamp(-128, 127)).abs().max() <= 0.5 + 0.02
