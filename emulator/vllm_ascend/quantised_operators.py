# SPDX-License-Identifier: Apache-2.0
"""Defines the operators of torch.ops._C_ascend that quantised experts call, by torch_npu's own.

Signatures: vllm-ascend 0.23.0 csrc/torch_binding.cpp (Apache-2.0). Rows behind the last group are not written.

Shapes: R = rows, K = inner size, N = size of gate and up together, G = groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_npu
from torch import Tensor

from .operators import define

_SUMS = 0  # group lists of running sums
COUNTS = 1  # of sizes


def grouped_product(
    x_RK: Tensor,
    weights: Sequence[Tensor],
    group_list: Tensor,
    scales: Sequence[Tensor],
    x_scale_R: Tensor,
    biases: Sequence[Tensor] | None = None,
    group_list_type: int = _SUMS,
) -> Tensor:
    """Returns the groups' scaled products in float32. weights: one tensor, or one a group."""
    product_RN: Tensor = torch_npu.npu_grouped_matmul(
        [x_RK],
        list(weights),
        bias=None if biases is None else list(biases),
        scale=list(scales),
        per_token_scale=[x_scale_R],
        split_item=2,
        group_type=0,
        group_list_type=group_list_type,
        group_list=group_list,
        output_dtype=torch.float32,
    )[0]
    return product_RN


def swiglu_quant(gate_up_RN: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Returns SwiGLU of gate and up as int8 [R, N / 2], and its scales [R]. limit: of both, 0 for none."""
    gate, up = gate_up_RN.chunk(2, dim=-1)
    if limit > 0:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    values, scales = torch_npu.npu_dynamic_quant(torch.nn.functional.silu(gate) * up)
    return values, scales


def grouped_matmul_swiglu_quant_tensor_list(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns SwiGLU of the groups' scaled products as int8 [R, N / 2], its scales [R], and nothing.

    group_list: running sums [G]. Raises NotImplementedError for a bias or an offset.
    """
    if bias is not None or offset is not None:
        raise NotImplementedError("emulator: grouped_matmul_swiglu_quant has no bias and no offset")
    values, scales = swiglu_quant(grouped_product(x, weight, group_list, weight_scale, x_scale), swiglu_limit)
    return values, scales, torch.empty(0, device=x.device)


def grouped_matmul_swiglu_quant(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    x_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Does the same with all weights in one tensor [G, K, N] and all scales in one [G, N]."""
    return grouped_matmul_swiglu_quant_tensor_list(
        x, [weight], [weight_scale], x_scale, group_list, bias=bias, offset=offset, swiglu_limit=swiglu_limit
    )


def grouped_matmul_swiglu_quant_v2(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    smooth_scale: Tensor | None = None,
    weight_assist_matrix: Sequence[Tensor] | None = None,
    bias: Tensor | None = None,
    dequant_mode: int | None = 0,
    dequant_dtype: int | None = 0,
    quant_mode: int | None = 0,
    quant_dtype: int | None = 0,
    transpose_weight: bool = False,
    group_list_type: int = _SUMS,
    tuning_config: Sequence[int] = (),
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Does the same for int4 weights, int32 words of eight values [G, K, N / 8], and returns no third tensor.

    weight_scale: [G, N], bits of float32 in int64. weight_assist_matrix: their biases, float32 [G, N], what a
    lowering of the rows' values by 8 takes away. Raises NotImplementedError for what vllm-ascend does not ask for:
    other modes, a free bias, smoothing, transposed weights.
    """
    asked = (smooth_scale, bias, dequant_mode, dequant_dtype, quant_mode, quant_dtype, transpose_weight)
    if asked != (None, None, 0, 0, 0, 0, False):
        raise NotImplementedError(f"emulator: grouped_matmul_swiglu_quant_v2 has no such mode: {asked}")
    product_RN = grouped_product(
        x, weight, group_list, weight_scale, x_scale, weight_assist_matrix, group_list_type
    )
    return swiglu_quant(product_RN, swiglu_limit)


def dequant_swiglu_quant(
    x: Tensor,
    *,
    weight_scale: Tensor,
    activation_scale: Tensor,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    swiglu_mode: int = 0,
    clamp_limit: float = 7.0,
    glu_alpha: float = 1.702,
    glu_bias: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Returns SwiGLU of scaled sums `x`, int32 [R, N], as int8 [R, N / 2], and its scales [R].

    weight_scale: [G, N], or [N] of one group. activation_scale: [R]. group_index: sizes [G]; None: one group.
    clamp_limit: of `swiglu_mode` 1 alone, where 0 is none: so vllm-ascend calls it for shared experts. Raises
    NotImplementedError for what vllm-ascend does not ask for: other modes, biases, smoothing.
    """
    asked = (bias, quant_scale, quant_offset, activate_left, quant_mode)
    if asked != (None, None, None, True, 1) or swiglu_mode not in (0, 1):
        raise NotImplementedError(f"emulator: npu_dequant_swiglu_quant has no such mode: {asked}, {swiglu_mode}")
    scale_of_row = weight_scale.float().view(-1, x.shape[-1])
    if group_index is not None:
        row = torch.arange(x.shape[0], device=x.device)
        group_of_row = (row[:, None] >= group_index.cumsum(0)).sum(dim=1).clamp(max=group_index.numel() - 1)
        scale_of_row = scale_of_row[group_of_row]
    scaled = x.float() * scale_of_row * activation_scale.float()[:, None]
    return swiglu_quant(scaled, clamp_limit if swiglu_mode == 1 else 0.0)


_SIGNATURE = (
    "(Tensor x, {tensor} weight, {tensor} weight_scale, Tensor x_scale, Tensor group_list, *, Tensor? bias=None, "
    "Tensor? offset=None, float swiglu_limit=0.0) -> (Tensor output, Tensor output_scale, Tensor output_offset)"
)
define(
    "_C_ascend",
    "grouped_matmul_swiglu_quant_weight_nz" + _SIGNATURE.format(tensor="Tensor"),
    grouped_matmul_swiglu_quant,
)
define(
    "_C_ascend",
    "grouped_matmul_swiglu_quant_weight_nz_tensor_list" + _SIGNATURE.format(tensor="Tensor[]"),
    grouped_matmul_swiglu_quant_tensor_list,
)
define(
    "_C_ascend",
    "grouped_matmul_swiglu_quant_v2(Tensor x, Tensor[] weight, Tensor[] weight_scale, Tensor x_scale, "
    "Tensor group_list, Tensor? smooth_scale=None, Tensor[]? weight_assist_matrix=None, Tensor? bias=None, "
    "int? dequant_mode=0, int? dequant_dtype=0, int? quant_mode=0, int? quant_dtype=0, "
    "bool transpose_weight=False, int group_list_type=0, int[2] tuning_config=[], float swiglu_limit=0.0) "
    "-> (Tensor output, Tensor output_scale)",
    grouped_matmul_swiglu_quant_v2,
)
define(
    "_C_ascend",
    "npu_dequant_swiglu_quant(Tensor x, *, Tensor? weight_scale=None, Tensor? activation_scale=None, "
    "Tensor? bias=None, Tensor? quant_scale=None, Tensor? quant_offset=None, Tensor? group_index=None, "
    "bool activate_left=False, int quant_mode=0, int swiglu_mode=0, float clamp_limit=7.0, float glu_alpha=1.702, "
    "float glu_bias=1.0) -> (Tensor, Tensor)",
    dequant_swiglu_quant,
)
