# SPDX-License-Identifier: Apache-2.0
"""Implements `mtp_pack_output` in Triton: a program a record."""

from __future__ import annotations

import torch
import triton
from triton import language as tl

from vllm_ascend_ext.mtp_record import HEADER_WORDS
from vllm_ascend_ext.ops.mtp_pack import check, topk_of


@triton.jit
def _section(to, source, num_words, SECTION: tl.constexpr, BLOCK: tl.constexpr):
    # num_words of `source`, then -1 to the end of the section
    word = tl.arange(0, BLOCK)
    value = tl.load(source + word, mask=word < num_words, other=-1)
    tl.store(to + word, value, mask=word < SECTION)


@triton.jit
def _kernel(
    out, token_ids, num_accepted, status, top_ids, top_logs, ranks, SLOTS: tl.constexpr, TOP_K: tl.constexpr,
    WORDS: tl.constexpr, HEADER: tl.constexpr, SLOT_WORDS: tl.constexpr, TOP_WORDS: tl.constexpr,
    SLOT_BLOCK: tl.constexpr, TOP_BLOCK: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    accepted = tl.minimum(tl.maximum(tl.load(num_accepted + request), 0), SLOTS)
    record = out + request * WORDS
    word = tl.arange(0, HEADER)
    header = tl.where(word == 0, accepted, tl.where(word == 1, tl.load(status + request), -1))
    tl.store(record + word, header)
    record += HEADER
    _section(record, token_ids + request * SLOTS, accepted, SLOT_WORDS, SLOT_BLOCK)
    if TOP_K > 0:
        record += SLOT_WORDS
        num_top = accepted * TOP_K
        _section(record, top_ids + request * SLOTS * TOP_K, num_top, TOP_WORDS, TOP_BLOCK)
        record += TOP_WORDS
        _section(record, top_logs + request * SLOTS * TOP_K, num_top, TOP_WORDS, TOP_BLOCK)
        record += TOP_WORDS
        _section(record, ranks + request * SLOTS, accepted, SLOT_WORDS, SLOT_BLOCK)


def mtp_pack_output(
    token_ids_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    status_B: torch.Tensor,
    *optional: torch.Tensor | None,
) -> torch.Tensor:
    """Runs the kernel, with the arguments of the operator's schema; see `vllm_ascend_ext.ops.mtp_pack_output`."""
    topk = topk_of(*optional)
    record = check(token_ids_BS, num_accepted_B, status_B, topk)
    out_BW = token_ids_BS.new_empty(token_ids_BS.shape[0], record.words)
    tokens = token_ids_BS.contiguous()
    # without top-k the kernel reads none of the three
    inputs = [tokens] * 3 if topk is None else [tensor.contiguous().view(torch.int32) for tensor in topk]
    if out_BW.shape[0]:
        slot_words, top_words = record.sections[0], record.sections[1] if record.top_k else 0
        _kernel[(out_BW.shape[0],)](
            out_BW,
            tokens,
            num_accepted_B.contiguous(),
            status_B.contiguous(),
            *inputs,
            SLOTS=record.num_slots,
            TOP_K=record.top_k,
            WORDS=record.words,
            HEADER=HEADER_WORDS,
            SLOT_WORDS=slot_words,
            TOP_WORDS=top_words,
            SLOT_BLOCK=triton.next_power_of_2(slot_words),
            TOP_BLOCK=triton.next_power_of_2(max(top_words, 1)),
        )
    return out_BW
