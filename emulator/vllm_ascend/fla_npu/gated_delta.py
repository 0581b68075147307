# SPDX-License-Identifier: Apache-2.0
"""Implements what vllm-ascend 0.30's gated delta net calls of fla_npu, by what stands in for 0.23's kernels.

Meaning and arguments: vllm-ascend's calls (ops/gdn.py, device/device_op.py, Apache-2.0), and the functions of the
same names in vLLM.

Shapes: T tokens of B sequences, packed; D channels, W taps; Nk key heads, Nv value heads, sizes Dk and Dv.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import linear_attention
from ..causal_convolution import causal_conv1d

_NOBODY = -1  # the row of a sequence that takes no part


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    conv_states: Tensor,
    query_start_loc: Tensor,
    cache_indices: Tensor,
    has_initial_state: Tensor,
    activation: str | None,
    null_block_id: int,
    **_: Any,
) -> Tensor:
    """Returns the convolution of packed sequences [T, D], and keeps their last inputs in rows of `conv_states`.

    has_initial_state: [B], whether a sequence has earlier inputs. null_block_id: of sequences that take no part.
    """
    rows = _rows(cache_indices, null_block_id)
    sequences = (query_start_loc, rows, has_initial_state, None)
    return causal_conv1d(
        torch.empty_like(x), x, weight, conv_states, bias, *sequences, _mode(activation), _NOBODY, 0
    )


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    activation: str | None,
    conv_state_indices: Tensor,
    query_start_loc: Tensor,
    null_block_id: int,
    out: Tensor,
    num_accepted_tokens: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Writes the same of few tokens a sequence, each of which has earlier inputs, to `out`, and returns it.

    num_accepted_tokens: [B], how many inputs of the call before have stayed.
    """
    rows = _rows(conv_state_indices, null_block_id)
    sequences = (query_start_loc, rows, None, num_accepted_tokens)
    return causal_conv1d(out, x, weight, conv_state, bias, *sequences, _mode(activation), _NOBODY, 1)


def chunk_gated_delta_rule_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor,
    cu_seqlens: Sequence[int],
    scale: float,
    layout: str,
    use_exp2: bool,
    use_qk_l2norm_in_kernel: bool,
    state_v_first: bool,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Carries the states [B, Nv, Dk, Dv] of many tokens a sequence on.

    q, k: [1, Nk, T, Dk]. v: [1, Nv, T, Dv]. g, beta: [1, T, Nv]. Returns the output [1, T, Nv, Dv] and the states.

    Raises:
        NotImplementedError: another layout, or what vllm-ascend leaves off.
    """
    if layout != "BNSD" or use_exp2 or use_qk_l2norm_in_kernel or state_v_first:
        raise NotImplementedError("emulator: chunk_gated_delta_rule_fwd has no such mode")
    query, key, value = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    ends = torch.tensor(cu_seqlens, dtype=torch.int64, device=q.device)
    return linear_attention.chunk_gated_delta_rule(
        query, key, value, g, beta, initial_state, ends, use_qk_l2norm_in_kernel=False, scale=scale
    )


def _rows(indices: Tensor, null_block_id: int) -> Tensor:
    return indices.masked_fill(indices == null_block_id, _NOBODY)


def _mode(activation: str | None) -> int:
    """Returns what the convolution calls the activation; raises NotImplementedError for one that it has not."""
    if activation not in (None, "silu"):
        raise NotImplementedError(f"emulator: a causal convolution with {activation}")
    return int(activation == "silu")
