# SPDX-License-Identifier: Apache-2.0
"""Defines the inputs of a drafting model that drafts several tokens at once.

Shapes: R requests, T tokens of them packed, S slots for drafts of a request, D rows of the drafting model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import define


def copy_and_expand_eagle_inputs(
    target_token_ids: Tensor,
    target_positions: Tensor,
    next_token_ids: Tensor,
    query_start_loc: Tensor,
    query_end_loc: Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    total_draft_tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lays out, for each request: its valid tokens, the token sampled last, S - 1 tokens to draft, and the
    rejected.

    target_token_ids, target_positions: [T]. next_token_ids: [R]. query_start_loc: [R + 1]. query_end_loc: [R], the
    last token that is not rejected. With `shift_input_ids` the first valid token falls away.

    Returns ids and positions, int32 [D], whether a row is rejected and whether it is to be drafted, int8 [D], the
    rows of the last S slots of each request, int32 [R S], and with `shift_input_ids` the row of each token, int32
    [T], else zeros.
    """
    num_slots, shift = num_padding_slots_per_request, int(shift_input_ids)
    starts, ends = query_start_loc.long(), query_end_loc.long()
    first, behind = starts[:-1], starts[1:]
    num_rejected = (behind - ends - 1).clamp(min=0)
    num_valid = (ends - first + 1 - shift).clamp(min=0)
    begin = first + _numbers(first, first.shape[0]) * (num_slots - shift)  # of each request's rows

    row = _numbers(first, total_draft_tokens)
    of_row = (row[:, None] >= begin[None, :]).sum(dim=1) - 1
    place, valid = row - begin[of_row], num_valid[of_row]
    is_valid, is_next = place < valid, place == valid
    is_draft = (place > valid) & (place < valid + num_slots)
    is_rejected = (place >= valid + num_slots) & (place < valid + num_slots + num_rejected[of_row])

    source = (first[of_row] + shift + place.clamp(min=0)).clamp(max=target_token_ids.shape[0] - 1)
    ids = next_token_ids[of_row].where(is_next, target_token_ids[source].where(is_valid, 0))
    ids = ids.masked_fill(is_draft, parallel_drafting_token_id).masked_fill(is_rejected, padding_token_id)
    positions = (target_positions[first][of_row] + place).where(is_valid | is_next | is_draft, 0)
    slots = begin[:, None] + num_valid[:, None] + _numbers(first, num_slots)
    token = _numbers(first, target_token_ids.shape[0])
    of_token = (token[:, None] >= first[None, :]).sum(dim=1) - 1
    rows_of_tokens = ((begin - first)[of_token] + token) * shift
    return (
        ids.int(), positions.int(), is_rejected.to(torch.int8), is_draft.to(torch.int8), slots.flatten().int(),
        rows_of_tokens.int(),
    )  # fmt: skip


def _numbers(beside: Tensor, count: int) -> Tensor:
    return torch.arange(count, device=beside.device)


define(
    "_C_ascend",
    "npu_copy_and_expand_eagle_inputs(Tensor target_token_ids, Tensor target_positions, Tensor next_token_ids, "
    "Tensor query_start_loc, Tensor query_end_loc, int padding_token_id, int parallel_drafting_token_id, "
    "int num_padding_slots_per_request, bool shift_input_ids, int total_draft_tokens) -> (Tensor out_input_ids, "
    "Tensor out_positions, Tensor out_is_rejected_token_mask, Tensor out_is_masked_token_mask, "
    "Tensor out_new_token_indices, Tensor out_hidden_state_mapping)",
    copy_and_expand_eagle_inputs,
)
