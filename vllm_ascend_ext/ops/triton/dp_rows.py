# SPDX-License-Identifier: Apache-2.0
"""Implements `dp_pad` and `dp_unpad` in Triton: the output as words, each written once."""

from __future__ import annotations

import torch
import triton
from triton import language as tl

from vllm_ascend_ext.ops.dp_rows import check_pad, check_unpad

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.int8))
_BLOCK_BYTES = 16384


@triton.jit
def _kernel(out, source, copy_begin, copy_end, out_words, shift, BLOCK: tl.constexpr):
    # out[i] = source[i - shift] for copy_begin <= i < copy_end, else 0
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source + (at - shift), mask=(at >= copy_begin) & (at < copy_end), other=0)
    tl.store(out + at, value, mask=at < out_words)


def _copy(out_NH: torch.Tensor, source_TH: torch.Tensor, rows: int, out_row: int, source_row: int) -> torch.Tensor:
    """Fills `out_NH` with zeros and, from `out_row` on, `rows` rows of `source_TH` from `source_row` on."""
    if out_NH.numel() == 0:
        return out_NH
    source_TH = source_TH.contiguous()
    row_bytes = out_NH.shape[1] * out_NH.element_size()
    aligned = row_bytes | source_TH.data_ptr() | out_NH.data_ptr()
    word_bytes, word = next(pair for pair in _WORDS if aligned % pair[0] == 0)
    width, block = row_bytes // word_bytes, _BLOCK_BYTES // word_bytes
    out_words = out_NH.shape[0] * width
    source = source_TH.view(torch.int8).view(word) if source_TH.numel() else out_NH.view(torch.int8).view(word)
    _kernel[(triton.cdiv(out_words, block),)](
        out_NH.view(torch.int8).view(word),
        source,
        out_row * width,
        (out_row + rows) * width,
        out_words,
        (out_row - source_row) * width,
        BLOCK=block,
    )
    return out_NH


def dp_pad(local_TH: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
    """Runs `vllm_ascend_ext.ops.dp_pad` on a GPU."""
    check_pad(local_TH, rows, offset, total)
    return _copy(local_TH.new_empty(total, local_TH.shape[1]), local_TH, rows, offset, 0)


def dp_unpad(global_NH: torch.Tensor, rows: int, offset: int) -> torch.Tensor:
    """Runs `vllm_ascend_ext.ops.dp_unpad` on a GPU."""
    check_unpad(global_NH, rows, offset)
    return _copy(global_NH.new_empty(rows, global_NH.shape[1]), global_NH, rows, 0, offset)
