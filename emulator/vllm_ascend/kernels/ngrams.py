# SPDX-License-Identifier: Apache-2.0
"""Defines drafts by the last tokens' earlier occurrence.

Shapes: B requests, M tokens of each at most, N sampled tokens, k drafts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import define


def ngram_spec_decode(
    token_ids: Tensor,
    num_tokens_no_spec: Tensor,
    sampled_token_ids: Tensor,
    discard_request_mask: Tensor,
    vocab_size: int,
    min_n: int,
    max_n: int,
    k: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Appends the sampled tokens to `token_ids`, [B, M], and drafts what followed their first earlier occurrence.

    num_tokens_no_spec: [B], tokens of each before. sampled_token_ids: [B, N], -1 behind the last, and -1 is
    written to it where a token does not count. discard_request_mask: [B], requests whose tokens do not count.
    min_n, max_n: how many of the last tokens must occur, the fewest that do.

    Returns `token_ids`, the last tokens [B], drafts [B, k], -1 behind the last, and their number [B].
    """
    length = num_tokens_no_spec.long()
    counts = (sampled_token_ids != -1) & (sampled_token_ids < vocab_size)
    counts = counts & (discard_request_mask == 0)[:, None]
    sampled_token_ids.copy_(sampled_token_ids.where(counts, -1))
    num_rows, size = token_ids.shape
    num_new = counts.sum(dim=1).minimum((size - length).clamp(min=0))
    last = sampled_token_ids.gather(1, (num_new - 1).clamp(min=0)[:, None]).squeeze(1)
    before = token_ids.gather(1, (length - 1).clamp(min=0)[:, None]).squeeze(1)
    next_ids = last.where(num_new > 0, before)

    place = torch.arange(size, device=token_ids.device)[None, :]
    number = place - length[:, None]
    new = sampled_token_ids.gather(1, number.clamp(0, sampled_token_ids.shape[1] - 1))
    token_ids.copy_(new.where((number >= 0) & (number < num_new[:, None]), token_ids))

    total = length + num_new
    begin = _behind_first_match(token_ids, total, min_n, max_n).where((num_new > 0) & (total >= min_n), -1)
    draft = torch.arange(k, device=token_ids.device)[None, :] + begin[:, None]
    exists = (begin >= 0)[:, None] & (draft < total[:, None])
    drafts = token_ids.gather(1, draft.clamp(0, size - 1)).where(exists, -1)
    num_drafts = (drafts != -1).int().cumprod(dim=1).sum(dim=1)
    return token_ids, next_ids.int(), drafts.int(), num_drafts.int()


def _behind_first_match(token_ids: Tensor, total: Tensor, min_n: int, max_n: int) -> Tensor:
    """Returns the place behind the first occurrence of each row's last n tokens, for the least n that has one; -1
    where none has. Places of a row end at `total`, [B]."""
    num_rows, size = token_ids.shape
    found = torch.full_like(total, -1)
    for n in range(min_n, min(max_n, size - 1) + 1):
        place = torch.arange(size - n + 1, device=token_ids.device)[None, :]
        matches = place < (total - n)[:, None]
        for i in range(n):
            wanted = token_ids.gather(1, (total - n + i).clamp(min=0)[:, None])
            matches = matches & (token_ids[:, i : size - n + 1 + i] == wanted)
        first = place.where(matches, size).amin(dim=1)
        found = (first + n).where((found < 0) & (first < size), found)
    return found


define(
    "_C_ascend",
    "npu_ngram_spec_decode(Tensor(a!) token_ids, Tensor num_tokens_no_spec, Tensor sampled_token_ids, "
    "Tensor discard_request_mask, int vocab_size, int min_n, int max_n, int k) -> (Tensor token_ids, "
    "Tensor next_token_ids, Tensor draft_token_ids, Tensor num_valid_draft_tokens)",
    ngram_spec_decode,
)
