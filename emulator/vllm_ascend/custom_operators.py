# SPDX-License-Identifier: Apache-2.0
"""Becomes vllm_ascend.vllm_ascend_C: the operators of torch.ops._C_ascend that eager steps and graphs call.

Signatures: vllm-ascend 0.23.0 csrc/torch_binding.cpp. Meaning: the reference functions of its tests
(tests/e2e/nightly/single_node/ops/singlecard_ops). Both Apache-2.0.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor

from . import linear_attention, quantised_operators, sparse_operators  # noqa: F401 - define
from .compressed import attention, compressor, hyper_connections, rows  # noqa: F401 - define
from .fused_mc2 import DISPATCH_FFN_COMBINE, dispatch_ffn_combine
from .kernels import caches, drafts, lora, ngrams  # noqa: F401 - define
from .operators import declare, define


def add_rms_norm_bias(
    x1: Tensor, x2: Tensor, gamma: Tensor, beta: Tensor | None = None, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (normalised x1 + x2, reciprocal of its root mean square, x1 + x2)."""
    y, rstd, x = torch_npu.npu_add_rms_norm(x1, x2, gamma, epsilon)
    return (y if beta is None else y + beta), rstd, x


def moe_gating_top_k(
    x: Tensor,
    k: int,
    k_group: int,
    group_count: int,
    group_select_mode: int,
    renorm: int,
    norm_type: int,
    out_flag: bool,
    routed_scaling_factor: float,
    eps: float,
    bias_opt: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and ids of each row's `k` best experts, and the scores."""
    weights_TK, ids_TK, scores_TE = torch_npu.npu_moe_gating_top_k(
        x,
        k,
        bias=bias_opt,
        k_group=k_group,
        group_count=group_count,
        group_select_mode=group_select_mode,
        renorm=renorm,
        norm_type=norm_type,
        out_flag=out_flag,
        routed_scaling_factor=routed_scaling_factor,
        eps=eps,
    )
    return weights_TK, ids_TK, scores_TE


def add_rms_norm_bias_shapes(
    x1: Tensor, x2: Tensor, gamma: Tensor, beta: Tensor | None = None, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what `add_rms_norm_bias` does, without values."""
    rstd = x1.new_empty((*x1.shape[: x1.dim() - gamma.dim()], *[1] * gamma.dim()), dtype=torch.float32)
    return torch.empty_like(x1), rstd, torch.empty_like(x1)


def moe_gating_top_k_shapes(x: Tensor, k: int, *_: object, **__: object) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what `moe_gating_top_k` does, without values."""
    num_rows = x.shape[0]
    ids_TK = x.new_empty((num_rows, k), dtype=torch.int32)
    return x.new_empty((num_rows, k)), ids_TK, torch.empty_like(x, dtype=torch.float32)


declare("_C_ascend", "device_print(str msg) -> ()")  # vllm-ascend 0.30 asks whether they are there
declare("_C_ascend", "device_print_tensor(Tensor tensor) -> ()")

define(
    "_C_ascend",
    "npu_add_rms_norm_bias(Tensor x1, Tensor x2, Tensor gamma, Tensor? beta=None, float epsilon=1e-6) "
    "-> (Tensor y, Tensor rstd, Tensor x)",
    add_rms_norm_bias,
    add_rms_norm_bias_shapes,
)
define(
    "_C_ascend",
    "moe_gating_top_k(Tensor x, int k, int k_group, int group_count, int group_select_mode, int renorm, "
    "int norm_type, bool out_flag, float routed_scaling_factor, float eps, Tensor? bias_opt=None) "
    "-> (Tensor y, Tensor expert_idx, Tensor out)",
    moe_gating_top_k,
    moe_gating_top_k_shapes,
)
define(
    "_C_ascend",
    "npu_moe_init_routing_custom(Tensor x, Tensor expert_idx, *, Tensor? scale=None, Tensor? offset=None, "
    "int active_num=-1, int expert_capacity=-1, int expert_num=-1, int drop_pad_mode=0, "
    "int expert_tokens_num_type=0, bool expert_tokens_num_flag=False, int quant_mode=0, "
    "int[2] active_expert_range=[], int row_idx_type=0) -> (Tensor, Tensor, Tensor, Tensor)",
    torch_npu.npu_moe_init_routing_v2,  # the operator that vllm-ascend's was made from
)
define("_C_ascend", DISPATCH_FFN_COMBINE, dispatch_ffn_combine)
