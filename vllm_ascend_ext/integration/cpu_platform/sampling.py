# SPDX-License-Identifier: Apache-2.0
"""Implements in plain torch the Triton kernels of vLLM's rejection sampler, and lists all replaced kernels.

vLLM's own CPU versions (https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/utils/cpu_triton_utils.py)
call C++ operators that an ``empty`` build lacks; some also lose their result or refuse an argument. Here the
semantics, parameter names and parameter order are those of the Triton kernels in
https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/sample/rejection_sampler.py

Shapes: ``B`` requests (the first grid dimension, often fewer than a buffer holds), ``T`` draft tokens of
all requests one after the other, ``S`` = ``max_spec_len``, ``V`` vocabulary, ``R`` rows of one chunk. Integer
tensors may be int32 or int64. ``BLOCK_SIZE`` and ``MAX_NUM_TOKENS`` only size a Triton tile and are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from vllm_ascend_ext.integration.cpu_platform import drafting
from vllm_ascend_ext.integration.cpu_platform.grid_kernel import GridKernel, segment_lengths

RECOVERY_ROWS = 64  # draft tokens whose [rows, V] scores exist at the same time


def _rows(values_T: Tensor, valid_BS: Tensor) -> Tensor:
    """Lays the consecutive segments of ``values_T`` out as zero-padded rows [B, S]."""
    rows_BS = values_T.new_zeros(valid_BS.shape)
    rows_BS[valid_BS] = values_T[: int(valid_BS.sum())]
    return rows_BS


def _synthetic_acceptance(uniform_BS: Tensor, rates: Tensor) -> Tensor:
    """Accepts position ``s`` with probability ``rates[s]``, whatever the tokens are; bool [B, S]."""
    positions_S = torch.arange(uniform_BS.shape[1]).clamp_(max=rates.shape[0] - 1)
    return uniform_BS < rates[positions_S]


def _store_until_rejection(
    output: Tensor, token_BS: Tensor, accepted_BS: Tensor, lengths_B: Tensor, bonus: Tensor, chosen_B: Tensor
) -> None:
    """Writes the tokens of the chosen requests up to and including the first rejected one.

    A request without a rejection gets its bonus token behind its drafts. Everything else in ``output``
    [>=B, S + 1] keeps its value (the caller filled it with -1).
    """
    num_requests, width = token_BS.shape
    positions_S = torch.arange(width)
    valid_BS = positions_S < lengths_B.unsqueeze(1)
    num_accepted_B = (accepted_BS & valid_BS).long().cumprod(dim=1).sum(dim=1)
    written_BS = valid_BS & (positions_S <= num_accepted_B.unsqueeze(1)) & chosen_B.unsqueeze(1)
    output[:num_requests, :width][written_BS] = token_BS[written_BS].to(output.dtype)
    complete_B = chosen_B & (num_accepted_B == lengths_B)
    bonus_B = bonus.reshape(-1)[:num_requests]
    output[:num_requests][complete_B, lengths_B[complete_B]] = bonus_B[complete_B].to(output.dtype)


@GridKernel
def rejection_greedy_sample_kernel(
    grid: tuple[int, ...],
    output_token_ids_ptr: Tensor,  # [B, S + 1], written
    cu_num_draft_tokens_ptr: Tensor,  # [B]
    draft_token_ids_ptr: Tensor,  # [T]
    target_argmax_ptr: Tensor,  # [T]
    bonus_token_ids_ptr: Tensor,  # [B] or [B, 1]
    is_greedy_ptr: Tensor | None,  # [B] bool; None: every request is greedy
    max_spec_len: int,
    uniform_probs_ptr: Tensor | None,  # [T] float64, synthetic mode only
    synthetic_conditional_rates_ptr: Tensor | None,  # [number of speculative tokens] float32
    SYNTHETIC_MODE: bool,
) -> None:
    """Accepts drafts that equal the target's arg max."""
    lengths_B = segment_lengths(cu_num_draft_tokens_ptr, grid[0])
    valid_BS = torch.arange(max_spec_len) < lengths_B.unsqueeze(1)
    draft_BS, target_BS = _rows(draft_token_ids_ptr, valid_BS), _rows(target_argmax_ptr, valid_BS)
    if SYNTHETIC_MODE:
        assert uniform_probs_ptr is not None and synthetic_conditional_rates_ptr is not None
        accepted_BS = _synthetic_acceptance(_rows(uniform_probs_ptr, valid_BS), synthetic_conditional_rates_ptr)
    else:
        accepted_BS = draft_BS == target_BS
    token_BS = torch.where(accepted_BS, draft_BS, target_BS)
    greedy_B = torch.ones(grid[0], dtype=torch.bool) if is_greedy_ptr is None else is_greedy_ptr[: grid[0]]
    _store_until_rejection(output_token_ids_ptr, token_BS, accepted_BS, lengths_B, bonus_token_ids_ptr, greedy_B)


@GridKernel
def rejection_random_sample_kernel(
    grid: tuple[int, ...],
    output_token_ids_ptr: Tensor,  # [B, S + 1], written
    cu_num_draft_tokens_ptr: Tensor,  # [B]
    draft_token_ids_ptr: Tensor,  # [T]
    draft_probs_ptr: Tensor | None,  # [T, V] float32
    target_probs_ptr: Tensor,  # [T, V] float32
    bonus_token_ids_ptr: Tensor,  # [B] or [B, 1]
    recovered_token_ids_ptr: Tensor,  # [T]
    uniform_probs_ptr: Tensor,  # [T] float64
    is_greedy_ptr: Tensor,  # [B] bool
    max_spec_len: int,
    vocab_size: int,
    synthetic_conditional_rates_ptr: Tensor | None,  # [number of speculative tokens] float32
    NO_DRAFT_PROBS: bool,
    SYNTHETIC_MODE: bool,
) -> None:
    """Accepts drafts with probability target / draft.

    A placeholder draft (-1) is rejected; Triton reads the probability next to its row there.
    """
    lengths_B = segment_lengths(cu_num_draft_tokens_ptr, grid[0])
    valid_BS = torch.arange(max_spec_len) < lengths_B.unsqueeze(1)
    num_drafts = int(lengths_B.sum())
    draft_T = draft_token_ids_ptr[:num_drafts].long()
    if SYNTHETIC_MODE:
        assert synthetic_conditional_rates_ptr is not None
        accepted_BS = _synthetic_acceptance(_rows(uniform_probs_ptr, valid_BS), synthetic_conditional_rates_ptr)
    else:
        known_T = (draft_T >= 0) & (draft_T < vocab_size)
        index_T1 = torch.where(known_T, draft_T, 0).unsqueeze(1)
        ratio_T = target_probs_ptr[:num_drafts].gather(1, index_T1).squeeze(1)
        if not NO_DRAFT_PROBS:
            assert draft_probs_ptr is not None
            draft_prob_T = draft_probs_ptr[:num_drafts].gather(1, index_T1).squeeze(1)
            known_T &= draft_prob_T > 0
            ratio_T = ratio_T / draft_prob_T
        accepted_BS = _rows(known_T & (ratio_T >= uniform_probs_ptr[:num_drafts]), valid_BS)
    token_BS = torch.where(accepted_BS, _rows(draft_T, valid_BS), _rows(recovered_token_ids_ptr, valid_BS))
    random_B = ~is_greedy_ptr[: grid[0]]
    _store_until_rejection(output_token_ids_ptr, token_BS, accepted_BS, lengths_B, bonus_token_ids_ptr, random_B)


@GridKernel
def expand_kernel(
    grid: tuple[int, ...],
    output_ptr: Tensor,  # [T], written
    input_ptr: Tensor,  # [B], any type
    cu_num_tokens_ptr: Tensor,  # [B]
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int,
) -> None:
    """Repeats one value per request for each of its tokens, one value replaced."""
    lengths_B = segment_lengths(cu_num_tokens_ptr, grid[0])
    value_B = input_ptr[: grid[0]]
    value_T = torch.where(value_B == replace_from, replace_to, value_B).repeat_interleave(lengths_B)
    output_ptr[: value_T.shape[0]] = value_T.to(output_ptr.dtype)


@GridKernel
def sample_recovered_tokens_kernel(
    grid: tuple[int, ...],
    output_token_ids_ptr: Tensor,  # [T], written
    cu_num_draft_tokens_ptr: Tensor,  # [B]
    draft_token_ids_ptr: Tensor,  # [T]
    draft_probs_ptr: Tensor | None,  # [T, V] float32
    target_probs_ptr: Tensor,  # [T, V] float32
    inv_q_ptr: Tensor,  # [B, V], float64 with USE_FP64_GUMBEL, else float32
    vocab_size: int,
    BLOCK_SIZE: int,
    NO_DRAFT_PROBS: bool,
    USE_FP64_GUMBEL: bool,
) -> None:
    """Samples each draft's substitute from max(target - draft, 0)."""
    lengths_B = segment_lengths(cu_num_draft_tokens_ptr, grid[0])
    request_T = torch.arange(grid[0]).repeat_interleave(lengths_B)
    for start in range(0, request_T.shape[0], RECOVERY_ROWS):
        rows = slice(start, min(start + RECOVERY_ROWS, request_T.shape[0]))
        if NO_DRAFT_PROBS:
            draft_R1 = draft_token_ids_ptr[rows].long().unsqueeze(1)
            prob_RV = target_probs_ptr[rows].masked_fill(torch.arange(vocab_size) == draft_R1, 0.0)
        else:
            assert draft_probs_ptr is not None
            prob_RV = (target_probs_ptr[rows] - draft_probs_ptr[rows]).clamp_(min=0.0)
        score_RV = prob_RV * inv_q_ptr[request_T[rows]]
        score_RV = score_RV.to(torch.float64 if USE_FP64_GUMBEL else torch.float32)
        score_RV.masked_fill_(score_RV.isnan(), float("-inf"))  # 0 * inf never wins
        output_token_ids_ptr[rows] = score_RV.argmax(dim=1).to(output_token_ids_ptr.dtype)


# CPUModelRunner._postprocess_triton copies these names to the modules that launch the kernels.
KERNELS: Mapping[str, object] = MappingProxyType(
    {
        kernel.name: kernel
        for kernel in (
            drafting.compute_slot_mapping_kernel,
            drafting.copy_and_expand_eagle_inputs_kernel,
            drafting.eagle_prepare_inputs_padded_kernel,
            drafting.eagle_prepare_next_token_padded_kernel,
            drafting.eagle_step_slot_mapping_metadata_kernel,
            rejection_greedy_sample_kernel,
            rejection_random_sample_kernel,
            expand_kernel,
            sample_recovered_tokens_kernel,
        )
    }
)
