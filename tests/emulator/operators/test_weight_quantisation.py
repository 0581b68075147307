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
