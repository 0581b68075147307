# SPDX-License-Identifier: Apache-2.0
"""Implements the hyper-connections of DeepSeek-V4: what mixes a layer's streams into its input, and its output
into them.

Shapes: M streams of hidden size H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import define


def hc_pre(
    x: Tensor,  # [..., M, H]
    hc_fn: Tensor,  # [(2 + M) * M, M * H]
    hc_scale: Tensor,  # [3]
    hc_base: Tensor,  # [(2 + M) * M]
    hc_mult: int,
    hc_sinkhorn_iters: int,
    norm_eps: float,
    hc_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the input of a layer [..., H], and in float32 the weights of its output [..., M] and those that mix
    the streams [..., M, M], whose rows and columns sum to about one."""
    flat = x.flatten(-2).float()
    weights = F.linear(flat * (flat.square().mean(-1, keepdim=True) + norm_eps).rsqrt(), hc_fn.float())
    sizes = [hc_mult, hc_mult, hc_mult**2]
    parts = zip(torch.split(weights, sizes, -1), hc_scale, torch.split(hc_base.float(), sizes), strict=True)
    pre, post, mix = (weight * scale + base for weight, scale, base in parts)
    mix = mix.unflatten(-1, (hc_mult, hc_mult)).softmax(-1) + hc_eps  # type: ignore[no-untyped-call]
    mix = mix / (mix.sum(-2, keepdim=True) + hc_eps)
    for _ in range(hc_sinkhorn_iters - 1):
        mix = mix / (mix.sum(-1, keepdim=True) + hc_eps)
        mix = mix / (mix.sum(-2, keepdim=True) + hc_eps)
    y = ((pre.sigmoid() + hc_eps)[..., None] * x.float()).sum(-2)
    return y.to(x.dtype), 2 * post.sigmoid(), mix


def hc_post(x: Tensor, residual: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """Returns the streams [..., M, H] after a layer with output x [..., H]."""
    mixed = comb.float().transpose(-1, -2) @ residual.float()
    return (post.float()[..., None] * x.float()[..., None, :] + mixed).to(residual.dtype)


def _pre_shapes(x: Tensor, hc_fn: Tensor, hc_scale: Tensor, hc_base: Tensor, hc_mult: int, *_: object) -> object:
    rows, hidden = x.shape[:-2], x.shape[-1]
    of_post = x.new_empty((*rows, hc_mult), dtype=torch.float32)
    return x.new_empty((*rows, hidden)), of_post, x.new_empty((*rows, hc_mult, hc_mult), dtype=torch.float32)


define(
    "_C_ascend",
    "npu_hc_pre_v2(Tensor x, Tensor hc_fn, Tensor hc_scale, Tensor hc_base, int hc_mult, int hc_sinkhorn_iters, "
    "float norm_eps, float hc_eps) -> (Tensor out0, Tensor out1, Tensor out2)",
    hc_pre,
    _pre_shapes,
)
define(
    "_C_ascend",
    "npu_hc_post(Tensor x, Tensor residual, Tensor post, Tensor comb) -> (Tensor out)",
    hc_post,
    lambda x, residual, post, comb: torch.empty_like(residual),
)
