# SPDX-License-Identifier: Apache-2.0
"""torch_npu's quantised operators on the emulator: integers bitwise, scaled results against float64.

Shapes: T = tokens, E = experts, K = experts a token, H = hidden, N = width of the output.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("with_private_formats")]

NZ = 29


def int8(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def quantised(row: torch.Tensor) -> tuple[list[int], float]:
    """One row in Python's numbers."""
    values = row.double().tolist()
    scale = max(map(abs, values)) / 127
    return [round(value / scale) if scale else 0 for value in values], scale


def assert_quantised(values: torch.Tensor, scales: torch.Tensor, rows: torch.Tensor) -> None:
    expected = [quantised(row) for row in rows.flatten(0, -2)]
    assert values.flatten(0, -2).tolist() == [numbers for numbers, _ in expected]
    assert_close(scales.flatten(), torch.tensor([scale for _, scale in expected]))
    assert (values.dtype, scales.dtype) == (torch.int8, torch.float32)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("shape", ((5, 16), (2, 3, 24)))
@pytest.mark.parametrize("smooth", (False, True))
def test_dynamic_quant(dtype: torch.dtype, shape: tuple[int, ...], smooth: bool) -> None:
    import torch_npu

    x = torch.randn(shape).to(dtype)
    x[-1, ..., :] = 0
    factors = torch.rand(shape[-1]).to(dtype) if smooth else None
    values, scales = torch_npu.npu_dynamic_quant(
        x.npu(), smooth_scales=None if factors is None else factors.npu(), dst_type=torch.int8
    )
    assert_quantised(values, scales, x.float() if factors is None else x.float() * factors.float())


def in_format(weight: torch.Tensor, nz: bool) -> torch.Tensor:
    import torch_npu

    on_device = torch_npu.npu_format_cast(weight.npu(), NZ) if nz else weight.npu()
    assert torch_npu.get_npu_format(on_device) == (NZ if nz else 2)
    return on_device


def test_format_cast_there_and_back() -> None:
    """Of sizes that NZ pads, in two and three dimensions."""
    import torch_npu

    for shape in ((33, 17), (3, 40, 50), (64, 32)):
        weight = int8(*shape)
        cast = in_format(weight, True)
        assert cast.shape == weight.shape
        assert torch.equal(torch_npu.npu_format_cast(cast, 2).cpu(), weight)
        assert torch.equal(cast.cpu(), weight)
        assert torch.equal(cast.clone().cpu(), weight)


def test_format_cast_on_a_stream_that_does_not_wait(race_reports: Any) -> None:
    import torch_npu

    weight, stream = int8(64, 64).npu(), torch.npu.Stream()
    weight.add_(1)
    with torch.npu.stream(stream):
        torch_npu.npu_format_cast(weight, NZ)
    torch.npu.synchronize()
    assert any("Identity" in report for report in map(str, race_reports.take()))


@pytest.mark.parametrize("nz", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("bias_dtype", (None, torch.int32, torch.float32))
def test_quant_matmul(nz: bool, dtype: torch.dtype, bias_dtype: torch.dtype | None) -> None:
    import torch_npu

    x, weight = int8(7, 48), int8(48, 20)
    column, row = torch.rand(20), torch.rand(7)
    bias = None if bias_dtype is None else torch.randint(-99, 99, (20,)).to(bias_dtype)
    out = torch_npu.npu_quant_matmul(
        x.npu(), in_format(weight, nz), column.npu(), pertoken_scale=row.npu(), output_dtype=dtype,
        bias=None if bias is None else bias.npu(),
    )  # fmt: skip
    sums = x.double() @ weight.double()
    expected = (sums if bias_dtype != torch.int32 else sums + bias) * column.double() * row.double()[:, None]
    assert out.dtype == dtype
    assert_close(out, expected + bias if bias_dtype == torch.float32 else expected)


def test_quant_matmul_with_one_scale_of_the_input() -> None:
    """As static quantisation has it: the input's scale is in the weight's, which goes by its bits."""
    import torch_npu

    x, weight, scale, bias = int8(7, 48), int8(48, 20), torch.rand(20), torch.randint(-99, 99, (20,)).int()
    out = torch_npu.npu_quant_matmul(
        x.npu(), in_format(weight, True), scale.npu(), bias=bias.npu(), output_dtype=torch.float16
    )
    assert_close(out, ((x.double() @ weight.double() + bias) * scale.double()).float())


@pytest.mark.parametrize("offset", (False, True))
def test_quantize(offset: bool) -> None:
    import torch_npu

    x, scale = torch.randn(5, 16) * 40, torch.rand(16) * 4
    zero_point = torch.randint(-9, 9, (16,)).float() if offset else None
    out = torch_npu.npu_quantize(
        x.npu(), scale.npu(), None if zero_point is None else zero_point.npu(), torch.qint8, -1, False
    )
    expected = x.double() * scale.double() + (0 if zero_point is None else zero_point.double())
    assert out.tolist() == [[max(-128, min(127, round(value))) for value in row] for row in expected.tolist()]


@pytest.mark.parametrize("active", ((0, 8), (2, 6)))
@pytest.mark.parametrize("smooth", (False, True))
def test_init_routing_quantises_rows(active: tuple[int, int], smooth: bool) -> None:
    import torch_npu

    x_TH, experts_TK = torch.randn(7, 16), torch.rand(7, 8).argsort(-1)[:, :2].int()
    factors = torch.rand(active[1] - active[0], 16) if smooth else None
    values, _, counts, scales = torch_npu.npu_moe_init_routing_v2(
        x_TH.npu(), experts_TK.npu(), active_num=14, expert_num=8, expert_tokens_num_type=1, quant_mode=1,
        scale=None if factors is None else factors.npu(), expert_tokens_num_flag=True,
        active_expert_range=list(active),
    )  # fmt: skip
    flat = experts_TK.flatten().tolist()
    order = [(i // 2, e) for e in range(*active) for i, expert in enumerate(flat) if expert == e]
    rows = torch.stack([x_TH[t] if factors is None else x_TH[t] * factors[e - active[0]] for t, e in order])
    assert_quantised(values[: len(order)], scales[: len(order)], rows)
    assert counts.tolist() == [flat.count(expert) for expert in range(*active)]


@pytest.mark.parametrize("nz", (False, True))
@pytest.mark.parametrize("list_type", (0, 1))
@pytest.mark.parametrize("split", (False, True))
@pytest.mark.parametrize("dtype", (torch.int32, torch.float32, torch.bfloat16))
def test_grouped_matmul(nz: bool, list_type: int, split: bool, dtype: torch.dtype) -> None:
    """All experts in one weight or each in one; the last two rows belong to no group."""
    import torch_npu

    x, weight, scale, row = int8(9, 48), int8(3, 48, 20), torch.rand(3, 20), torch.rand(9)
    weights = [in_format(one.contiguous(), nz) for one in weight] if split else [in_format(weight, nz)]
    scales = [one.contiguous().npu() for one in scale] if split else [scale.npu()]
    sizes = torch.tensor([4, 0, 3])
    with_scales = {} if dtype == torch.int32 else {"scale": scales, "per_token_scale": [row.npu()]}
    (out,) = torch_npu.npu_grouped_matmul(
        [x.npu()], weights, split_item=2, group_type=0, group_list_type=list_type, output_dtype=dtype,
        group_list=(sizes if list_type == 1 else sizes.cumsum(0)).npu(), **with_scales,
    )  # fmt: skip
    expected = torch.cat((x[:4].double() @ weight[0].double(), x[4:7].double() @ weight[2].double()))
    if dtype == torch.int32:
        assert torch.equal(out[:7].cpu(), expected.int())
        return
    expected[:4] *= scale[0].double()
    expected[4:] *= scale[2].double()
    assert out.dtype == dtype
    assert_close(out[:7], expected * row[:7, None].double())


@pytest.mark.parametrize("split", (False, True))
@pytest.mark.parametrize("limit", (0.0, 0.5))
def test_grouped_matmul_swiglu_quant(split: bool, limit: float) -> None:
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    x, weight, scale, row = int8(9, 32), int8(3, 32, 24), torch.rand(3, 24) / 100, torch.rand(9) / 100
    group_list = torch.tensor([4, 4, 7])
    if split:
        operator = torch.ops._C_ascend.grouped_matmul_swiglu_quant_weight_nz_tensor_list
        weights: Any = [in_format(one.contiguous(), True) for one in weight]
        scales: Any = [one.contiguous().npu() for one in scale]
    else:
        operator = torch.ops._C_ascend.grouped_matmul_swiglu_quant_weight_nz
        weights, scales = in_format(weight, True), scale.npu()
    values, row_scales, _ = operator(
        x=x.npu(), weight=weights, weight_scale=scales, x_scale=row.npu(), group_list=group_list.npu(),
        swiglu_limit=limit,
    )  # fmt: skip
    products = [x[t].double() @ weight[e].double() * scale[e].double() * row[t].double() for t, e in GROUPED]
    assert_quantised(values[:7], row_scales[:7], swiglu(products, limit))


GROUPED = tuple(enumerate((0, 0, 0, 0, 2, 2, 2)))  # row and group


def swiglu(products: list[torch.Tensor], limit: float) -> torch.Tensor:
    rows = []
    for gate_up in (product.tolist() for product in products):
        half = len(gate_up) // 2
        gates = [min(gate, limit) if limit else gate for gate in gate_up[:half]]
        ups = [max(-limit, min(up, limit)) if limit else up for up in gate_up[half:]]
        rows.append([gate / (1 + math.exp(-gate)) * up for gate, up in zip(gates, ups, strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


def test_dequant_swiglu_quant() -> None:
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    sums, scale, row = torch.randint(-9999, 9999, (9, 24)).int(), torch.rand(3, 24) / 100, torch.rand(9) / 10
    values, row_scales = torch.ops._C_ascend.npu_dequant_swiglu_quant(
        sums.npu(), weight_scale=scale.npu(), activation_scale=row.npu(),
        group_index=torch.tensor([4, 0, 3]).npu(), activate_left=True, quant_mode=1,
    )  # fmt: skip
    products = [sums[t].double() * scale[e].double() * row[t].double() for t, e in GROUPED]
    assert_quantised(values[:7], row_scales[:7], swiglu(products, 0.0))


@pytest.mark.parametrize("limit", [0.0, 3.0])
def test_dequant_swiglu_quant_of_shared_experts(limit: float) -> None:
    """As vllm-ascend calls it: mode 1, and one group of all rows where nothing is clamped."""
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    sums, scale, row = torch.randint(-9999, 9999, (5, 24)).int(), torch.rand(24) / 100, torch.rand(5) / 10
    values, row_scales = torch.ops._C_ascend.npu_dequant_swiglu_quant(
        sums.npu(), weight_scale=scale.npu(), activation_scale=row.npu(), activate_left=True, quant_mode=1,
        group_index=None if limit else torch.tensor([5]).npu(), swiglu_mode=1, clamp_limit=limit,
    )  # fmt: skip
    assert_quantised(
        values, row_scales, swiglu(list(sums.double() * scale.double() * row.double()[:, None]), limit)
    )


@pytest.mark.parametrize(("dtype", "of_zero"), [(torch.qint8, torch.int8), (torch.quint8, torch.uint8)])
@pytest.mark.parametrize("width", (torch.float32, torch.float16))
def test_numbers_divided_by_scales_of_an_axis(
    dtype: torch.dtype, of_zero: torch.dtype, width: torch.dtype
) -> None:
    import torch_npu

    x, scales = (torch.randn(5, 4, 3) * 20).to(width), torch.rand(4) + 0.01
    zeros = torch.randint(0, 9, (4,)).to(of_zero)
    expected = torch.quantize_per_channel(x.float(), scales, zeros, 1, dtype).int_repr()
    found = torch_npu.npu_quantize(x.npu(), scales.npu(), zeros.npu(), dtype, 1)
    assert found.dtype == expected.dtype and torch.equal(found.cpu(), expected)
    expected = torch.quantize_per_tensor(x.float(), 0.23, 3, dtype).int_repr()
    found = torch_npu.npu_quantize(
        x.npu(), torch.tensor([0.23]).npu(), torch.tensor([3]).to(of_zero).npu(), dtype, 1
    )
    assert torch.equal(found.cpu(), expected)


def test_slice_of_a_private_format() -> None:
    """As vllm-ascend 0.30 takes the projections of keys and of queries apart."""
    import torch_npu

    weight = torch.randint(-127, 128, (48, 96)).to(torch.int8)
    for part in (slice(0, 64), slice(64, 96)):
        apart = in_format(weight, nz=True)[..., part].contiguous()
        assert torch.equal(torch_npu.npu_format_cast(apart, 2).cpu(), weight[:, part])
