# SPDX-License-Identifier: Apache-2.0
"""Implements what DeepSeek-V4 does with single rows: rotating a part of them, writing them to caches, norms that
quantise, and their experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torch_npu
from torch import Tensor

from ..operators import define
from .packed import write

_SQRT_SOFTPLUS = 2  # of `norm_type`, as vllm-ascend passes it for this score (ops/fused_moe/experts_selector.py)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Returns x with each two elements that lie side by side rotated; cos and sin have each angle twice."""
    turned = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    return x * cos + turned * sin


def inplace_partial_rotary_mul(
    x: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str, partial_slice: list[int]
) -> None:
    """Rotates x[..., begin:end] in place by cos r1 and sin r2.

    Raises:
        NotImplementedError: other pairs than those side by side.
    """
    if rotary_mode != "interleave":
        raise NotImplementedError(f"not emulated: rotary_mode {rotary_mode!r}")
    part = x[..., partial_slice[0] : partial_slice[1]]
    part.copy_(rotate_pairs(part.float(), r1.float(), r2.float()))


def scatter_nd_update(var: Tensor, indices: Tensor, update: Tensor) -> None:
    """Writes rows to [block, place in it] of a cache, those of a block below zero excepted."""
    block, offset = indices.long().unbind(-1)
    write(var, (block, offset), update.reshape(-1, var.shape[-1]))


def rms_norm_dynamic_quant(
    x: Tensor, gamma: Tensor, smooth_scale: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Returns the rows normalised and in int8, and a scale a row."""
    if smooth_scale is not None or beta is not None:
        raise NotImplementedError("not emulated: a norm that quantises with smooth scales or a bias")
    y, scale = torch_npu.npu_dynamic_quant(torch_npu.npu_rms_norm(x, gamma, epsilon)[0])
    return y, scale


def moe_gating_top_k_hash(
    x: Tensor,
    k: int,
    bias: Tensor | None = None,
    input_ids: Tensor | None = None,
    tid2eid: Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and ids of each row's `k` experts, and the scores: the best, with a bias where there is one, or
    those of the row's token in `tid2eid`. Weights are shares of their sum, as of a sigmoid's scores, times a
    factor.

    Raises:
        NotImplementedError: groups of experts, another score, or a second norm.
    """
    if group_count != 1 or norm_type != _SQRT_SOFTPLUS or renorm != 0:
        raise NotImplementedError("not emulated: hashed routing with groups, other scores or a norm of its own")
    scores_TE = F.softplus(x.float()).sqrt()
    if tid2eid is not None and input_ids is not None:
        ids_TK = tid2eid.index_select(0, input_ids.long().flatten()).long()
    else:
        ids_TK = (scores_TE if bias is None else scores_TE + bias.float()).topk(k, -1).indices
    weights_TK = scores_TE.gather(1, ids_TK)
    weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + eps) * routed_scaling_factor
    return weights_TK.to(x.dtype), ids_TK.int(), scores_TE


def _gating_shapes(x: Tensor, k: int, *_: object, **__: object) -> tuple[Tensor, Tensor, Tensor]:
    ids_TK = x.new_empty((x.shape[0], k), dtype=torch.int32)
    return x.new_empty((x.shape[0], k)), ids_TK, torch.empty_like(x, dtype=torch.float32)


def _quantised_shapes(x: Tensor, *_: object, **__: object) -> Sequence[Tensor]:
    return torch.empty_like(x, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)


define(
    "_C_ascend",
    "inplace_partial_rotary_mul(Tensor(a!) x, Tensor r1, Tensor r2, str rotary_mode, int[] partial_slice) -> ()",
    inplace_partial_rotary_mul,
    lambda *_, **__: None,
)
define(
    "_C_ascend",
    "npu_scatter_nd_update_v2(Tensor(a!) var, Tensor indices, Tensor update) -> ()",
    scatter_nd_update,
    lambda *_, **__: None,
)
define(
    "_C_ascend",
    "npu_rms_norm_dynamic_quant(Tensor x, Tensor gamma, Tensor? smooth_scale=None, Tensor? beta=None, "
    "float epsilon=1e-6) -> (Tensor y_out, Tensor scale_out)",
    rms_norm_dynamic_quant,
    _quantised_shapes,
)
define(
    "_C_ascend",
    "moe_gating_top_k_hash(Tensor x, int k, Tensor? bias=None, Tensor? input_ids=None, Tensor? tid2eid=None, "
    "int k_group=1, int group_count=1, float routed_scaling_factor=1.0, float eps=1e-20, int group_select_mode=0, "
    "int renorm=0, int norm_type=0, bool out_flag=False) -> (Tensor y, Tensor expert_idx, Tensor out)",
    moe_gating_top_k_hash,
    _gating_shapes,
)
