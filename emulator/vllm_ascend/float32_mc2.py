# SPDX-License-Identifier: Apache-2.0
"""Calls the emulated MoE dispatch and combine on float32, which torch_npu's own functions refuse.

The same operators of libopapi run, with the arguments that op-plugin passes
(op_plugin/ops/opapi/MoeDistributeDispatchV2KernelOpApi.cpp and MoeDistributeCombineKernelV2OpApi.cpp, BSD-3), so
that the race checker and the limits are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .launch import run

_ORIGIN_INTS = 128  # of each row in assist_info_for_combine


def npu_moe_distribute_dispatch_v2(
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    scales: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    expert_scales: Tensor | None = None,
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    expert_token_nums_type: int = 1,
    comm_alg: str = "",
    **others: Any,
) -> tuple[Tensor, ...]:
    """Sends tokens to their experts' ranks, as torch_npu's function of this name does."""
    given = {name: value for name, value in locals().items() if name != "others"} | others
    if x.dtype != torch.float32:
        dispatched: tuple[Tensor, ...] = torch.ops.npu.npu_moe_distribute_dispatch_v2(**given)
        return dispatched
    global_batch = global_bs or x.shape[0] * ep_world_size
    num_local = moe_expert_num // ep_world_size
    num_rows = global_batch * min(num_local, expert_ids.shape[1])
    rows = x.new_empty(num_rows, x.shape[1], dtype=torch.int8 if quant_mode else x.dtype)
    row_scales, expanded_scales = x.new_empty(num_rows), x.new_empty(0)
    origins = x.new_empty(max(expert_ids.numel(), num_rows * _ORIGIN_INTS), dtype=torch.int32)
    counts = x.new_empty(num_local, dtype=torch.int64)
    recv_counts = x.new_empty(ep_world_size * num_local, dtype=torch.int32)
    tp_counts = x.new_empty(tp_world_size, dtype=torch.int32)
    outputs = (rows, row_scales, origins, counts, recv_counts, tp_counts, expanded_scales)
    run(
        "aclnnMoeDistributeDispatchV2",
        *(x, expert_ids, scales, x_active_mask, expert_scales),
        *(group_ep, ep_world_size, ep_rank_id, moe_expert_num, group_tp, tp_world_size, tp_rank_id),
        *(expert_shard_type, shared_expert_num, shared_expert_rank_num),
        *(quant_mode, global_batch, expert_token_nums_type, comm_alg, *outputs),
    )
    return outputs


def npu_moe_distribute_combine_v2(
    expand_x: Tensor,
    expert_ids: Tensor,
    assist_info_for_combine: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    tp_send_counts: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    expand_scales: Tensor | None = None,
    shared_expert_x: Tensor | None = None,
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_alg: str = "",
    **others: Any,
) -> Tensor:
    """Gets the experts' rows back and sums them by token, as torch_npu's function of this name does."""
    given = {name: value for name, value in locals().items() if name != "others"} | others
    if expand_x.dtype != torch.float32:
        combined: Tensor = torch.ops.npu.npu_moe_distribute_combine_v2(**given)
        return combined
    out = expand_x.new_empty(expert_ids.shape[0], expand_x.shape[1])
    run(
        "aclnnMoeDistributeCombineV2",
        *(expand_x, expert_ids, assist_info_for_combine, ep_send_counts, expert_scales, tp_send_counts),
        *(x_active_mask, None, None, None, expand_scales, shared_expert_x),
        *(group_ep, ep_world_size, ep_rank_id, moe_expert_num, group_tp, tp_world_size, tp_rank_id),
        *(expert_shard_type, shared_expert_num, shared_expert_rank_num),
        *(global_bs or expert_ids.shape[0] * ep_world_size, 0, comm_quant_mode, 0, comm_alg, out),
    )
    return out
