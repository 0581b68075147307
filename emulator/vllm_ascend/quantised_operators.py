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

from emulator.vllm_ascend.operators import define

_SUMS = 0  # group lists of running sums
_COUNTS = 1


def _grouped(
    x_RK: Tensor, weights: Sequence[Tensor], group_list: Tensor, scales: Sequence[Tensor], x_scale_R: Tensor
) -> Tensor:
    (product_RN,) = torch_npu.npu_grouped_matmul(
        [x_RK],
        list(weights),
        scale=list(scales),
        per_token_scale=[x_scale_R],
        split_item=2,
        group_type=0,
        group_list_type=_SUMS,
        group_list=group_list,
        output_dtype=torch.float32,
    )
    return product_RN


def _swiglu_quant(gate_up_RN: Tensor, limit: float) -> tuple[Tensor, Tensor]:
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
    values, scales = _swiglu_quant(_grouped(x, weight, group_list, weight_scale, x_scale), swiglu_limit)
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
