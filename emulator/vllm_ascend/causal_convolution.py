# SPDX-License-Identifier: Apache-2.0
"""Implements vllm-ascend's causal convolution with a cache of inputs, in torch operations that the host need not
read, so that it can be captured.

Shapes: T tokens of B sequences, packed; D channels, W taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    output: Tensor,
    x: Tensor,
    weight: Tensor,
    conv_state: Tensor,
    bias_opt: Tensor | None,
    query_start_loc_opt: Tensor | None,
    cache_indices_opt: Tensor | None,
    initial_state_mode_opt: Tensor | None,
    num_accepted_tokens_opt: Tensor | None,
    activation_mode: int,
    pad_slot_id: int,
    run_mode: int,
) -> Tensor:
    """Writes to `output`, [T, D], the convolution of `x`, [T, D], by `weight`, [W, D], behind each sequence's last
    inputs, and to its row of `conv_state`, [rows, inputs, D], the inputs that the next call needs.

    A sequence without tokens, or whose row is `pad_slot_id`, changes nothing; rows of `output` behind the last
    sequence stay as they are.

    cache_indices_opt: [B], or [B, blocks], of which the first is meant. initial_state_mode_opt: [B], whether a
    sequence has earlier inputs; None: each has. num_accepted_tokens_opt: [B], how many inputs of the call before
    have stayed; then all inputs of this call are kept, for some may not stay. activation_mode: 1 for silu.
    run_mode: 0 for prefills, 1 for decodes, which have the same meaning.
    """
    if query_start_loc_opt is None or cache_indices_opt is None:
        raise NotImplementedError("emulator: the causal convolution takes packed sequences with a cache")
    taps, device, starts = weight.shape[0], x.device, query_start_loc_opt.long()
    lengths = starts.diff()
    rows = (cache_indices_opt if cache_indices_opt.dim() == 1 else cache_indices_opt[:, 0]).long()
    takes_part = (lengths > 0) & (rows != pad_slot_id)
    rows = rows.where(takes_part, 0)
    first = 0 if num_accepted_tokens_opt is None else (num_accepted_tokens_opt.long() - 1).clamp(min=0)[:, None]
    place = torch.arange(taps - 1, device=device)
    earlier = conv_state[rows[:, None], first + place]  # [B, W - 1, D]
    if initial_state_mode_opt is not None:
        earlier = earlier.where(initial_state_mode_opt.bool()[:, None, None], 0)
    result, exists = _convolved(x, earlier, starts, weight, bias_opt)
    result = F.silu(result) if activation_mode else result
    output.copy_(result.to(x.dtype).where(exists[:, None], output))
    if num_accepted_tokens_opt is None:
        kept = place.expand(len(lengths), -1)
        number, is_kept = kept + lengths[:, None], takes_part[:, None].expand(-1, taps - 1)
    else:
        kept = torch.arange(conv_state.shape[1], device=device).expand(len(lengths), -1)
        number, is_kept = kept + 1, takes_part[:, None] & (kept < (lengths + taps - 2)[:, None])
    new = _inputs(x, earlier, torch.arange(len(lengths), device=device)[:, None], starts, number)
    conv_state[rows[:, None], kept] = new.where(is_kept[..., None], conv_state[rows[:, None], kept])
    return output


def _convolved(
    x: Tensor, earlier: Tensor, starts: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the sums of each token, [T, D] in float32, and whether it is a token of a sequence, [T]."""
    num_sequences = earlier.shape[0]
    token = torch.arange(x.shape[0], device=x.device)
    sequence = (token[:, None] >= starts[None, 1:]).sum(dim=1)
    exists = sequence < num_sequences
    sequence = sequence.clamp(max=num_sequences - 1)
    result = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for tap in range(weight.shape[0]):
        inputs = _inputs(x, earlier, sequence, starts, token - starts[sequence] + tap)
        result = result + inputs.float() * weight[tap].float()
    return result if bias is None else result + bias.float(), exists


def _inputs(x: Tensor, earlier: Tensor, sequence: Tensor, starts: Tensor, number: Tensor) -> Tensor:
    """Returns inputs by their sequence and number, [*, D]: first come its earlier inputs, then its tokens."""
    num_earlier = earlier.shape[1]
    token = (starts[sequence] + number - num_earlier).clamp(0, x.shape[0] - 1)
    is_earlier = (number < num_earlier)[..., None]
    return earlier[sequence, number.clamp(max=num_earlier - 1)].where(is_earlier, x[token])
