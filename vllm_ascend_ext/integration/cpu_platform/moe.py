# SPDX-License-Identifier: Apache-2.0
"""Implements unquantised mixture-of-experts for the CPU: expert maps, and EPLB's logical-to-physical mapping with
counting.

T = tokens, K = top-k, H = hidden size
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

# multiplier of vLLM's replica choice (Knuth's multiplicative hash of the token's row)
_KNUTH_MULTIPLIER = 2654435769


class TorchFusedMoEMethod(UnquantizedFusedMoEMethod):
    """Routes through vLLM's router objects (so that EPLB and capture hooks see the ids), then loops over the
    experts of this rank. Upstream's CPU method routes by itself and ignores the expert map."""

    is_monolithic = False
    supports_eplb = True
    topk_indices_dtype = None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leaves the weights as loaded: [experts, 2I, H] and [experts, H, I].

        Raises UnsupportedCombinationError unless the experts are SiLU-gated and without bias.
        """
        if layer.activation != MoEActivation.SILU or self.moe.has_bias:
            raise UnsupportedCombinationError(
                f"the CPU platform runs SiLU-gated experts without bias, not {layer.activation}; run this model "
                "on an NPU or a GPU"
            )

    def get_fused_moe_quant_config(self, layer: torch.nn.Module) -> None:
        return None

    def apply(
        self,
        layer: Any,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        shared_experts: Any = None,
        shared_experts_input: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the weighted sum of the local experts' outputs for [T, H] tokens; ids of other ranks and -1 add
        nothing."""
        local_TK = topk_ids.long()
        if layer.expert_map is not None:
            mapped_TK = layer.expert_map[local_TK.clamp_min(0)].long()
            local_TK = mapped_TK.where(local_TK >= 0, local_TK)
        out_TH = torch.zeros(x.shape, dtype=torch.float32)
        for expert in torch.unique(local_TK[local_TK >= 0]).tolist():
            token, slot = (local_TK == expert).nonzero(as_tuple=True)
            weight = topk_weights[token, slot].float().unsqueeze(1)
            rows = x[token]
            if layer.apply_router_weight_on_input:
                rows, weight = (rows * weight.to(rows.dtype)), torch.ones_like(weight)
            gate, up = F.linear(rows, layer.w13_weight[expert]).chunk(2, dim=-1)
            down = F.linear(F.silu(gate) * up, layer.w2_weight[expert])
            out_TH.index_add_(0, token, down.float() * weight)
        return out_TH.to(x.dtype)


def register_moe_method() -> None:
    """Makes vLLM build our method wherever it would build its unquantised one; idempotent."""
    from vllm.model_executor.custom_op import CustomOp, op_registry_oot

    if "UnquantizedFusedMoEMethod" not in op_registry_oot:
        CustomOp.register_oot(TorchFusedMoEMethod, name="UnquantizedFusedMoEMethod")


def eplb_map_to_physical_and_record(
    topk_ids: torch.Tensor,
    expert_load_view: torch.Tensor,
    logical_to_physical_map: torch.Tensor,
    logical_replica_count: torch.Tensor,
    record_enabled: torch.Tensor,
) -> torch.Tensor:
    """Maps and counts as vLLM's Triton kernel does; upstream's version off CUDA maps nothing and counts nothing.

    topk_ids [T, K] logical ids, expert_load_view [physical experts] counted in place,
    logical_to_physical_map [logical experts, slots], logical_replica_count [logical experts].
    Returns [T, K] physical ids in topk_ids' dtype; a negative logical id stays -1.
    https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/model_executor/layers/fused_moe/router/base_router.py
    """
    logical_TK = topk_ids.long()
    valid_TK = (logical_TK >= 0) & (logical_TK < logical_replica_count.shape[0])
    safe_TK = logical_TK.where(valid_TK, torch.zeros_like(logical_TK))
    row_T1 = torch.arange(topk_ids.shape[0], device=topk_ids.device).unsqueeze(1)
    hashed_T1 = (row_T1 * _KNUTH_MULTIPLIER) & 0xFFFFFFFF
    replica_TK = hashed_T1 % logical_replica_count[safe_TK].long().clamp_min(1)
    physical_TK = logical_to_physical_map[safe_TK, replica_TK].long()
    physical_TK = physical_TK.where(valid_TK, torch.full_like(physical_TK, -1))
    if bool(record_enabled):
        counted = physical_TK[(physical_TK >= 0) & (physical_TK < expert_load_view.shape[0])]
        expert_load_view += torch.bincount(counted, minlength=expert_load_view.shape[0]).to(expert_load_view.dtype)
    return physical_TK.to(topk_ids.dtype)
