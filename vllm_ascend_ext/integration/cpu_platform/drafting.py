# SPDX-License-Identifier: Apache-2.0
"""Implements in plain torch the Triton kernels that prepare a forward pass: draft inputs and cache slots.

Semantics, parameter names and parameter order are those of the Triton kernels in

* https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/spec_decode/utils.py (launched there and in
  https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/spec_decode/llm_base_proposer.py)
* https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/worker/block_table.py

Shapes: ``B`` requests, often fewer than a buffer holds; ``T`` tokens of all requests one after the other;
``P`` = ``num_padding_slots_per_request``. Integer tensors may be int32 or int64. ``BLOCK_SIZE`` only sizes a
Triton tile and is ignored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vllm_ascend_ext.integration.cpu_platform.grid_kernel import GridKernel, segment_lengths


def _segment_elements(lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the segment of every element, and its place in the segment; int64 [sum of lengths] each."""
    segment = torch.arange(lengths_B.shape[0]).repeat_interleave(lengths_B)
    first_B = lengths_B.cumsum(0) - lengths_B
    return segment, torch.arange(segment.shape[0]) - first_B[segment]


def _store(target: Tensor, index: Tensor | slice, values: Tensor) -> None:
    target[index] = values.to(target.dtype)


@GridKernel
def eagle_prepare_inputs_padded_kernel(
    grid: tuple[int, ...],
    cu_num_draft_tokens_ptr: Tensor,  # [B] inclusive sums
    valid_sampled_tokens_count_ptr: Tensor,  # [B]
    query_start_loc_gpu_ptr: Tensor,  # [B + 1]
    token_indices_to_sample_ptr: Tensor,  # [B], written
    num_rejected_tokens_gpu_ptr: Tensor,  # [B], written
    num_reqs: int,
) -> None:
    """Computes the index of each request's last accepted token, and how many drafts behind it were rejected."""
    num_drafts_B = segment_lengths(cu_num_draft_tokens_ptr, num_reqs)
    rejected_B = num_drafts_B + 1 - valid_sampled_tokens_count_ptr[:num_reqs].long()
    rejected_B = torch.where(num_drafts_B > 0, rejected_B, 0)
    last_B = query_start_loc_gpu_ptr[1 : num_reqs + 1].long() - 1
    _store(token_indices_to_sample_ptr, slice(num_reqs), last_B - rejected_B)
    _store(num_rejected_tokens_gpu_ptr, slice(num_reqs), rejected_B)


@GridKernel
def eagle_prepare_next_token_padded_kernel(
    grid: tuple[int, ...],
    sampled_token_ids_ptr: Tensor,  # [>=B, >=num_sampled_tokens_per_req], rejected ones are -1
    discard_request_mask_ptr: Tensor,  # [B] bool
    backup_next_token_ids_ptr: Tensor,  # [B]
    next_token_ids_ptr: Tensor,  # [B], written
    valid_sampled_tokens_count_ptr: Tensor,  # [B], written
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
    stride_sampled_token_ids: int,  # the tensor knows its stride
    BLOCK_SIZE_TOKENS: int,  # tile size
) -> None:
    """Counts the valid sampled tokens of each request and finds the last of them, else the backup token."""
    sampled = sampled_token_ids_ptr[:num_reqs, :num_sampled_tokens_per_req].long()
    valid = (sampled != -1) & (sampled < vocab_size) & ~discard_request_mask_ptr[:num_reqs].unsqueeze(1)
    positions = torch.arange(num_sampled_tokens_per_req)
    last_B1 = torch.where(valid, positions, 0).amax(dim=1, keepdim=True)
    any_valid_B = valid.any(dim=1)
    backup_B = backup_next_token_ids_ptr[:num_reqs].long()
    next_B = torch.where(any_valid_B, sampled.gather(1, last_B1).squeeze(1), backup_B)
    _store(next_token_ids_ptr, slice(num_reqs), next_B)
    _store(valid_sampled_tokens_count_ptr, slice(num_reqs), valid.sum(dim=1))


@GridKernel
def eagle_step_slot_mapping_metadata_kernel(
    grid: tuple[int, ...],  # (batch size with padding,)
    positions_ptr: Tensor,  # [B]
    block_table_ptr: Tensor,  # [B, n_blocks_per_req]
    block_table_stride: int,  # the tensor knows its stride
    seq_lens_ptr: Tensor,  # [B], read and written
    out_clamped_positions_ptr: Tensor,  # [B], written; may be positions_ptr
    out_slot_mapping_ptr: Tensor,  # [batch size with padding], written
    block_size: int,
    max_model_len: int,
    n_blocks_per_req: int,
    PAD_ID: int,
    batch_size: int,
) -> None:
    """Advances every request by one drafted token: position, cache slot and sequence length.

    A request at the end of the model's length goes to position 0 with length 1 and writes no cache; neither
    do the padded requests behind the batch.
    """
    position_B = positions_ptr[:batch_size].long() + 1
    exceeds_B = position_B >= max_model_len
    position_B = torch.where(exceeds_B, 0, position_B)
    block_number_B = (position_B // block_size).clamp_(max=n_blocks_per_req - 1)
    block_B = block_table_ptr[torch.arange(batch_size), block_number_B].long()
    slot_B = torch.where(exceeds_B, PAD_ID, block_B * block_size + position_B % block_size)
    length_B = torch.where(exceeds_B, 1, seq_lens_ptr[:batch_size] + 1).clamp_(max=max_model_len)
    _store(out_clamped_positions_ptr, slice(batch_size), position_B)
    _store(out_slot_mapping_ptr, slice(batch_size), slot_B)
    out_slot_mapping_ptr[batch_size : grid[0]] = PAD_ID
    _store(seq_lens_ptr, slice(batch_size), length_B)


@GridKernel
def copy_and_expand_eagle_inputs_kernel(
    grid: tuple[int, ...],  # (B, token blocks of a request)
    target_token_ids_ptr: Tensor,  # [T]
    target_positions_ptr: Tensor,  # [T]
    next_token_ids_ptr: Tensor,  # [B]
    out_input_ids_ptr: Tensor,  # [tokens of the drafter], written like the three below
    out_positions_ptr: Tensor,
    out_is_rejected_token_mask_ptr: Tensor,  # bool
    out_is_masked_token_mask_ptr: Tensor,  # bool
    out_new_token_indices_ptr: Tensor,  # [B * P], written
    out_hidden_state_mapping_ptr: Tensor,  # [T], written with shift_input_ids only
    query_start_loc_ptr: Tensor,  # [B + 1]
    query_end_loc_ptr: Tensor,  # [B] index of each request's last accepted token
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Lays the drafter's input out per request: accepted tokens, next token, drafting slots, rejected ones.

    With ``shift_input_ids`` each request loses its first token, and ``out_hidden_state_mapping_ptr`` tells
    where the hidden state of every target token goes.
    """
    num_reqs, slots, shift = grid[0], num_padding_slots_per_request, int(shift_input_ids)
    start_B, next_start_B = query_start_loc_ptr[: num_reqs + 1].long().unfold(0, 2, 1).unbind(1)
    end_B = query_end_loc_ptr[:num_reqs].long()
    num_valid_B = end_B - start_B + 1 - shift
    num_out_B = (num_valid_B + slots + next_start_B - end_B - 1).clamp(min=0, max=grid[1] * BLOCK_SIZE_TOKENS)
    request, j = _segment_elements(num_out_B)  # one element per output token
    out, place = start_B[request] + request * (slots - shift) + j, j - num_valid_B[request]
    is_draft, is_rejected = (place > 0) & (place < slots), place >= slots

    last = total_input_tokens - 1
    tokens = target_token_ids_ptr[(start_B[request] + shift + j).clamp(max=last)].long()
    tokens = torch.where(place == 0, next_token_ids_ptr[request].long(), tokens)
    tokens = torch.where(is_draft, parallel_drafting_token_id, tokens)
    _store(out_input_ids_ptr, out, torch.where(is_rejected, padding_token_id, tokens))
    positions = target_positions_ptr[start_B[request].clamp(max=last)].long() + j
    _store(out_positions_ptr, out, torch.where(is_rejected, 0, positions))
    _store(out_is_rejected_token_mask_ptr, out, is_rejected)
    _store(out_is_masked_token_mask_ptr, out, is_draft)
    is_new = (place >= 0) & ~is_rejected
    _store(out_new_token_indices_ptr, (request * slots + place)[is_new], out[is_new])
    if shift_input_ids:
        request, j = _segment_elements(next_start_B - start_B)  # one element per target token
        source = start_B[request] + j
        _store(out_hidden_state_mapping_ptr, source, source + request * (slots - 1))


@GridKernel
def compute_slot_mapping_kernel(
    grid: tuple[int, ...],  # (number of requests + 1,)
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc_ptr: Tensor,  # [>=B + 1]
    positions_ptr: Tensor,  # [num_tokens]
    block_table_ptr: Tensor,  # [>=B, blocks of a request]
    block_table_stride: int,
    block_size: int,
    slot_mapping_ptr: Tensor,  # [max_num_tokens] int64, written
    TOTAL_CP_WORLD_SIZE: int,
    TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int,
    BLOCK_SIZE: int,
) -> None:
    """Computes the cache slot of every scheduled token; PAD_ID for other ranks' tokens and behind the last token.

    Context parallelism spreads a virtual block of ``block_size * world`` tokens over the
    ranks, ``CP_KV_CACHE_INTERLEAVE_SIZE`` tokens at a time.
    """
    starts = query_start_loc_ptr[: grid[0]].long()
    request = torch.arange(grid[0] - 1).repeat_interleave(torch.diff(starts))
    first, last = int(starts[0]), int(starts[-1])
    virtual_block_size = block_size * TOTAL_CP_WORLD_SIZE
    position = positions_ptr[first:last].long()
    block = block_table_ptr[request, position // virtual_block_size].long()
    chunk = position % virtual_block_size // CP_KV_CACHE_INTERLEAVE_SIZE
    offset = chunk // TOTAL_CP_WORLD_SIZE * CP_KV_CACHE_INTERLEAVE_SIZE
    slot = block * block_size + offset + position % virtual_block_size % CP_KV_CACHE_INTERLEAVE_SIZE
    local = chunk % TOTAL_CP_WORLD_SIZE == TOTAL_CP_RANK
    slot_mapping_ptr[first:last] = torch.where(local, slot, PAD_ID)
    slot_mapping_ptr[num_tokens:max_num_tokens] = PAD_ID
