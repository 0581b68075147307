# SPDX-License-Identifier: Apache-2.0
"""Runs vllm-ascend's fused MC2, which sends tokens to their experts, computes these and gets the rows back.

The parts are the emulated operators of plain MC2 and grouped products, so that the limits and the race checker are
the same. Signature: vllm-ascend 0.23.0 csrc/torch_binding.cpp (Apache-2.0); the last argument is one of 0.30.
Meaning: what vllm-ascend's `FusedMC2CommImpl` expects in the place of its `MC2CommImpl`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor

from .float32_mc2 import npu_moe_distribute_combine_v2, npu_moe_distribute_dispatch_v2
from .quantised_operators import COUNTS, grouped_product, swiglu_quant

DISPATCH_FFN_COMBINE = (
    "dispatch_ffn_combine(Tensor x, Tensor[] weight1, Tensor[] weight2, Tensor expert_idx, Tensor[] scale1, "
    "Tensor[] scale2, Tensor[] bias1, Tensor[] bias2, Tensor probs, str group, int max_output_size, Tensor! out, "
    "Tensor! expert_token_nums, Tensor? x_active_mask=None, float swiglu_limit=1000000.0, "
    "int? world_size=None) -> (Tensor out, Tensor expert_token_nums)"
)
_ND = 2  # aclFormat
_NO_LIMIT = 1000000.0
_BY_ROW = 2  # mode of dispatch: each row becomes int8 with a scale of its own


def dispatch_ffn_combine(
    x: Tensor,
    weight1: list[Tensor],
    weight2: list[Tensor],
    expert_idx: Tensor,
    scale1: list[Tensor],
    scale2: list[Tensor],
    bias1: list[Tensor],
    bias2: list[Tensor],
    probs: Tensor,
    group: str,
    max_output_size: int,
    out: Tensor,
    expert_token_nums: Tensor,
    x_active_mask: Tensor | None = None,
    swiglu_limit: float = 1000000.0,
    world_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Fills `out` with each token's sum over its experts, and `expert_token_nums` with the own experts' tokens.

    Weights in int8 have float32 scales, whose bits scale1 and scale2 hold in int64: an output each.
    world_size: of the group, as vllm-ascend 0.30 says it; 0.23 does not.

    Raises:
        NotImplementedError: a limit for the activation of weights in floating point.
        ValueError: the group has another number of ranks.
    """
    limit = 0.0 if swiglu_limit == _NO_LIMIT else swiglu_limit
    is_quantised = not weight1[0].is_floating_point()
    if limit and not is_quantised:
        raise NotImplementedError("dispatch_ffn_combine of weights in floating point is emulated without a limit")
    place = _place(group, expert_token_nums.numel(), world_size)
    stage: dict[str, Any] = {"x_active_mask": x_active_mask, "group_tp": group, "tp_world_size": 1}
    mode = _BY_ROW if is_quantised else 0
    sent = npu_moe_distribute_dispatch_v2(x, expert_idx, *place, quant_mode=mode, **stage)
    rows, row_scales, origins, counts, recv_counts, tp_counts, expand_scales = sent
    if is_quantised:
        scales = (scale1, row_scales, scale2)
        hidden = _quantised_experts(rows, weight1, weight2, scales, counts, limit).to(x.dtype)
    else:
        hidden = _grouped(torch_npu.npu_swiglu(_grouped(rows, weight1, counts)), weight2, counts)
    arguments = (hidden, expert_idx, origins, recv_counts, probs, *place)
    stage |= {"tp_send_counts": tp_counts, "expand_scales": expand_scales}
    combined = npu_moe_distribute_combine_v2(*arguments, **stage)
    expert_token_nums.copy_(counts)
    return out.copy_(combined), expert_token_nums


def _place(group: str, num_own_experts: int, world_size: int | None) -> tuple[str, int, int, int]:
    """Returns the group, its ranks, this rank and the number of all experts."""
    from vllm_ascend.distributed.parallel_state import get_mc2_group

    ranks = get_mc2_group()
    if world_size not in (None, ranks.world_size):
        raise ValueError(
            f"dispatch_ffn_combine: a group of {world_size}, where there are {ranks.world_size} ranks"
        )
    return group, ranks.world_size, ranks.rank_in_group, ranks.world_size * num_own_experts


def _grouped(rows: Tensor, weights: list[Tensor], counts: Tensor) -> Tensor:
    """Multiplies the rows of each expert by its weights, which come as one tensor or one an expert."""
    stacked = weights[0] if len(weights) == 1 else torch.stack(weights)
    plain = torch_npu.npu_format_cast(stacked, _ND)
    products: list[Tensor] = torch_npu.npu_grouped_matmul(
        [rows], [plain], group_list=counts, group_list_type=1, group_type=0, split_item=2
    )
    return products[0]


def _quantised_experts(
    rows: Tensor,
    weight1: list[Tensor],
    weight2: list[Tensor],
    scales: tuple[list[Tensor], Tensor, list[Tensor]],
    counts: Tensor,
    limit: float,
) -> Tensor:
    """Returns what the own experts make of int8 rows, in float32. scales: of weight1, of the rows, of weight2."""
    of_weight1, of_rows, of_weight2 = scales
    gate_up = grouped_product(rows, weight1, counts, _floats(of_weight1, weight1), of_rows, None, COUNTS)
    hidden, of_hidden = swiglu_quant(gate_up, limit)
    return grouped_product(hidden, weight2, counts, _floats(of_weight2, weight2), of_hidden, None, COUNTS)


def _floats(scales: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Returns float32 scales, of each weight in its shape without the inner size, from their bits in int64."""
    return [
        bits.int().view(torch.float32).view(*weight.shape[:-2], -1)
        for bits, weight in zip(scales, weights, strict=True)
    ]
