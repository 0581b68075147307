# SPDX-License-Identifier: Apache-2.0
"""Implements what the gated delta net of Qwen3-Next calls: operators of torch.ops._C_ascend and Triton kernels.

Signatures: vllm-ascend csrc/torch_binding.cpp and ops/triton. Meaning: the reference functions of its tests
(tests/e2e/nightly/single_node/ops/singlecard_ops) and, for the convolution, its torch form of it for a 310P
(_310p/ops/causal_conv1d.py). All Apache-2.0. The delta rule itself is libopapi's.

Shapes: T tokens of B sequences, packed; Nk key heads, Nv value heads, head sizes Dk and Dv.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import torch_npu
from torch import Tensor

from .causal_convolution import causal_conv1d
from .launch import run
from .operators import define

_LARGEST = 20.0  # from which on softplus(x) is x


def recurrent_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    *,
    beta: Tensor | None = None,
    scale: float | None = None,
    actual_seq_lengths: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    g: Tensor | None = None,
    gk: Tensor | None = None,
) -> Tensor:
    """Carries the states of few tokens a sequence on, as `npu_recurrent_gated_delta_rule` of torch_npu does, with
    what vllm-ascend's has beyond it: types other than bfloat16, and a number before the lengths, of the tokens
    before the first sequence, which is always zero.

    Returns [T, Nv, Dv]; rows behind the last sequence are not written.
    """
    out = torch.empty_like(value)
    lengths = None if actual_seq_lengths is None else actual_seq_lengths[1:]
    scale = key.shape[-1] ** -0.5 if scale is None else scale
    run(
        "aclnnRecurrentGatedDeltaRule",
        *(query, key, value, beta, state, lengths, ssm_state_indices, g, gk, num_accepted_tokens, scale, out),
    )
    return out


def chunk_gated_delta_rule(
    q: Tensor,  # [1, T, Nk, Dk]
    k: Tensor,
    v: Tensor,  # [1, T, Nv, Dv]
    g: Tensor,  # [1, T, Nv]
    beta: Tensor,
    initial_state: Tensor,  # [B, Nv, Dk, Dv]
    cu_seqlens: Tensor,  # [B + 1]
    use_qk_l2norm_in_kernel: bool,
    scale: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Carries the states of many tokens a sequence on. Returns the output, as v, and the last states."""
    query, key = (l2norm(x) if use_qk_l2norm_in_kernel else x for x in (q[0], k[0]))
    out, state = torch.empty_like(v[0]), initial_state.transpose(-1, -2).contiguous()
    last_state = torch.empty_like(state)
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    lengths = cu_seqlens.diff().int()
    run("aclnnChunkGatedDeltaRule", query, key, v[0], beta[0], state, lengths, scale, g[0], out, last_state)
    return out[None], last_state.transpose(-1, -2)


def gdn_gating(A_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Returns the logarithm of what a state keeps, and how much of a value it learns, both [1, T, Nv]."""
    g = -A_log.float().exp() * F.softplus(a.float() + dt_bias.float(), threshold=_LARGEST)
    return g[None], b.float().sigmoid().to(b.dtype)[None]


def l2norm(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> Tensor:
    """Returns x with rows of length one."""
    rows = x.float()
    return (rows * (rows.square().sum(-1, keepdim=True) + eps).rsqrt()).to(output_dtype or x.dtype)


def clear_ssm_states(ssm_states: Tensor, has_initial_state: Tensor) -> None:
    """Zeroes the states [B, ..] of sequences that begin."""
    begins = has_initial_state.to(ssm_states.device, torch.bool).logical_not()
    ssm_states.masked_fill_(begins.view(-1, *[1] * (ssm_states.dim() - 1)), 0)


def gather_ssm_states(
    state: Tensor, indices: Tensor, has_initial_state: Tensor, *, output_dtype: torch.dtype | None = None
) -> Tensor:
    """Returns the states [B, ..] of sequences, with zeros for those that begin. indices: their rows, [B]."""
    rows = indices.where(has_initial_state, 0)
    states = state.index_select(0, rows).to(output_dtype or state.dtype)
    clear_ssm_states(states, has_initial_state)
    return states


def scatter_ssm_states(state: Tensor, indices: Tensor, source: Tensor) -> None:
    """Writes the states [B, ..] of sequences to their rows."""
    state[indices] = source.to(state.dtype)


def split_qkvzba(
    mixed_qkvz: Tensor, mixed_ba: Tensor, num_heads_qk: int, num_heads_v: int, head_qk: int, head_v: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Takes projections apart in which each key head's parts lie together.

    Returns [T, queries, keys, values], [T, Nv, Dv] of gates, and b and a, [T, Nv].
    """
    num_tokens, shared = mixed_qkvz.shape[0], num_heads_v // num_heads_qk
    heads = mixed_qkvz.view(num_tokens, num_heads_qk, -1)
    *qkv, z = torch.split(heads, [head_qk, head_qk, shared * head_v, shared * head_v], dim=-1)
    b, a = torch.split(mixed_ba.view(num_tokens, num_heads_qk, -1), shared, dim=-1)
    mixed_qkv = torch.cat([part.reshape(num_tokens, -1) for part in qkv], dim=-1)
    z, b, a = (part.reshape(num_tokens, num_heads_v, -1) for part in (z, b, a))
    return mixed_qkv, z, b[..., 0], a[..., 0]


def gated_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    z: Tensor | None = None,
    out: Tensor | None = None,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> tuple[Tensor, None, None]:
    """Returns x, [T, size], normalised and gated by z; without the statistics, which are for training."""
    if not is_rms_norm or group_size not in (None, x.shape[-1]) or bias is not None or out is not None:
        raise NotImplementedError("emulator: the gated norm stand-in is an RMS norm of whole rows, without a bias")
    rows = x.float()
    gate = 1.0 if z is None else F.silu(z.float())
    if not norm_before_gate:
        rows = rows * gate
    normed = rows * (rows.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.float()
    return (normed * gate if norm_before_gate else normed).to(x.dtype), None, None


define(
    "_C_ascend",
    "npu_recurrent_gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor(a!) state, *, "
    "Tensor? beta=None, float? scale=None, Tensor? actual_seq_lengths=None, Tensor? ssm_state_indices=None, "
    "Tensor? num_accepted_tokens=None, Tensor? g=None, Tensor? gk=None) -> Tensor",
    recurrent_gated_delta_rule,
)
define(
    "_C_ascend",
    "npu_causal_conv1d_custom(Tensor output, Tensor x, Tensor weight, Tensor conv_state, Tensor? bias_opt, "
    "Tensor? query_start_loc_opt, Tensor? cache_indices_opt, Tensor? initial_state_mode_opt, "
    "Tensor? num_accepted_tokens_opt, int activation_mode, int pad_slot_id, int run_mode) -> (Tensor output)",
    causal_conv1d,
)
define(
    "_C_ascend",
    "npu_fused_gdn_gating(Tensor A_log, Tensor a, Tensor b, Tensor dt_bias) -> (Tensor g, Tensor beta)",
    gdn_gating,
)
define(
    "_C_ascend",
    "npu_gemma_rms_norm(Tensor x, Tensor gamma, float epsilon=1e-6) -> (Tensor y, Tensor rstd)",
    torch_npu.npu_gemma_rms_norm,
    torch_npu.npu_gemma_rms_norm,
)
