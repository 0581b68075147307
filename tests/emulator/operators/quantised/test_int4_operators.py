# SPDX-License-Identifier: Apache-2.0
"""torch_npu's grouped product of int8 rows and int4 weights on the emulator, as W4A8 experts call it.

Shapes: T = tokens, E = experts, K = input, N = output, Q = groups of a weight's inputs with a scale each.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("with_private_formats")]

T, E, K, N = 9, 3, 48, 16
GROUP_OF_ROW = (0, 0, 0, 0, 2, 2, 2)  # the last two rows belong to none


def words(weight_EKN: torch.Tensor) -> torch.Tensor:
    """Packs eight values into an int32, the first in the lowest bits."""
    nibbles = weight_EKN.to(torch.int64).unflatten(-1, (-1, 8)) & 15
    packed = sum(nibbles[..., i] << (4 * i) for i in range(8))
    assert isinstance(packed, torch.Tensor)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def bits(scale: torch.Tensor) -> torch.Tensor:
    """The bits of float32 in int64, the upper half zero."""
    return scale.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def in_nz(words_of_weight: torch.Tensor) -> torch.Tensor:
    """As vllm-ascend loads them: bytes, cast to a private format and then looked at as int32."""
    import torch_npu

    return torch_npu.npu_format_cast(words_of_weight.view(torch.int8).npu(), 29).view(torch.int32).contiguous()


class Operands:
    """Random ones. num_groups: Q, or 0 for scales without that dimension."""

    def __init__(self, num_groups: int) -> None:
        self.x_TK = torch.randint(-128, 128, (T, K), dtype=torch.int8)
        self.weight_EKN = torch.randint(-8, 8, (E, K, N))
        self.scale = torch.rand(E, num_groups, N) if num_groups else torch.rand(E, N)
        self.row_T = torch.rand(T)
        scale_EKN = self.scale.view(E, -1, N).repeat_interleave(K // max(num_groups, 1), dim=1)
        self.scaled_EKN = self.weight_EKN.double() * scale_EKN.double()
        self.bias_EN = (8 * self.scaled_EKN.sum(1)).float()

    def products(self) -> torch.Tensor:
        rows = [self.x_TK[t].double() @ self.scaled_EKN[e] * self.row_T[t] for t, e in enumerate(GROUP_OF_ROW)]
        return torch.stack(rows)


@pytest.mark.parametrize("num_groups", (0, 1, 3))
@pytest.mark.parametrize("split", (False, True))
@pytest.mark.parametrize("nz", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_grouped_matmul(num_groups: int, split: bool, nz: bool, dtype: torch.dtype) -> None:
    """All experts in one weight or each in one; a scale a column, or one for each third of a column."""
    import torch_npu

    given = Operands(num_groups)
    lists = {"weight": words(given.weight_EKN), "scale": bits(given.scale), "bias": given.bias_EN}
    on_device = {
        name: [one.contiguous().npu() for one in all_of] if split else [all_of.npu()]
        for name, all_of in lists.items()
    }
    if nz:
        on_device["weight"] = [in_nz(weight.cpu()) for weight in on_device["weight"]]
    (out,) = torch_npu.npu_grouped_matmul(
        [given.x_TK.npu()], **on_device, per_token_scale=[given.row_T.npu()], split_item=2, group_type=0,
        group_list_type=1, group_list=torch.tensor([4, 0, 3]).npu(), output_dtype=dtype,
    )  # fmt: skip
    assert out.dtype == dtype
    assert_close(out[:7], given.products())


def test_a_bias_that_is_not_the_weights_changes_the_result() -> None:
    """It is what the operator's lowering of the rows' values takes away, not a free bias."""
    import torch_npu

    given = Operands(0)
    (out,) = torch_npu.npu_grouped_matmul(
        [given.x_TK.npu()], [words(given.weight_EKN).npu()], scale=[bits(given.scale).npu()],
        bias=[torch.zeros_like(given.bias_EN).npu()], per_token_scale=[given.row_T.npu()], split_item=2,
        group_type=0, group_list_type=1, group_list=torch.tensor([4, 0, 3]).npu(), output_dtype=torch.float32,
    )  # fmt: skip
    missing = torch.stack([given.bias_EN[e].double() * given.row_T[t] for t, e in enumerate(GROUP_OF_ROW)])
    assert_close(out[:7], given.products() - missing)


def test_swiglu_quant() -> None:
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    given = Operands(0)
    operator: Any = torch.ops._C_ascend.grouped_matmul_swiglu_quant_v2
    values, scales = operator(
        x=given.x_TK.npu(), weight=[words(given.weight_EKN).npu()], weight_scale=[bits(given.scale).npu()],
        x_scale=given.row_T.npu(), group_list=torch.tensor([4, 0, 3]).npu(), group_list_type=1, dequant_mode=0,
        weight_assist_matrix=[given.bias_EN.npu()],
    )  # fmt: skip
    gate, up = given.products().chunk(2, dim=-1)
    expected = gate * torch.sigmoid(gate) * up
    assert values.dtype == torch.int8
    assert (
        (values[:7].double().cpu() * scales[:7, None].double().cpu() - expected)
        .abs()
        .le(0.501 * scales[:7, None].double().cpu())
        .all()
    )
    assert_close(scales[:7], expected.abs().amax(-1) / 127)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_product_with_one_weight(dtype: torch.dtype) -> None:
    """Int8 rows by an int4 weight, each 256 of whose inputs have scales."""
    import torch_npu

    x, weight = torch.randint(-128, 128, (4, 512), dtype=torch.int8), torch.randint(-8, 8, (512, 64))
    scale, row = torch.rand(2, 64), torch.rand(4, 1) / 100
    scaled = weight.double() * scale.double().repeat_interleave(256, 0)
    found = torch_npu.npu_quant_matmul(
        x.npu(),
        words(weight).npu(),
        bits(scale).npu(),
        offset=(8 * scaled.sum(0)).float().npu(),
        pertoken_scale=row.npu(),
        output_dtype=dtype,
        group_sizes=[0, 0, 256],
    )
    assert found.dtype == dtype
    assert_close(found, x.double() @ scaled * row)


@pytest.mark.parametrize("with_rows", (False, True))
def test_product_of_int4(with_rows: bool) -> None:
    """Both operands quantised to int4 by npu_quantize, which packs eight into a word."""
    import torch_npu

    x, weight = torch.randint(-8, 8, (5, 32)), torch.randint(-8, 8, (32, 16))
    one = torch.ones(1).npu()
    packed = [torch_npu.npu_quantize(v.float().npu(), one, None, torch.quint4x2, -1, False) for v in (x, weight)]
    assert all(torch.equal(ours.cpu(), words(v)) for ours, v in zip(packed, (x, weight), strict=True))
    scale, row = torch.tensor([0.03]), torch.rand(5)
    if with_rows:
        found = torch_npu.npu_quant_matmul(
            *packed, scale.npu(), pertoken_scale=row.npu(), output_dtype=torch.float16
        )
    else:
        quantised = torch_npu.npu_trans_quant_param(scale.npu(), None)
        found = torch_npu.npu_quant_matmul(*packed, quantised, output_dtype=torch.float16)
    assert_close(found, x.double() @ weight.double() * 0.03 * (row.unsqueeze(-1) if with_rows else 1))
