# SPDX-License-Identifier: Apache-2.0
"""Packs records with numpy where a step samples in the host's memory: the operator's two dozen calls into torch,
which a device takes at once, are most of such a step's cost.

Shapes: B = requests, S = token slots a request, K = columns of log-probabilities, W = words of a record.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from vllm_ascend_ext.mtp_output.frames.section import Int32Array
from vllm_ascend_ext.mtp_record import record_starts
from vllm_ascend_ext.ops.mtp_pack import TopK


def write_records(out_BW: Int32Array, token_ids_BS: torch.Tensor, topk: TopK | None, vocab_size: int) -> None:
    """Writes the records that `mtp_pack_output` makes, with the number of tokens counted and the status 0.

    Args:
        out_BW: ``[B, W]``, overwritten.
        token_ids_BS: ``[B, S]`` int32, accepted ones first, then -1.
        topk: the most probable tokens of each slot; None to leave them out.
        vocab_size: where there are several slots, an id that is not below it does not count.
    """
    ids_BS: Int32Array = token_ids_BS.numpy()
    num_requests, num_slots = ids_BS.shape
    # a negative id is a very large unsigned one
    is_token_BS = ids_BS >= 0 if num_slots == 1 else ids_BS.view(np.uint32) < vocab_size
    num_tokens_B = np.add.reduce(is_token_BS, axis=1, dtype=np.int32)
    is_accepted_BS = _slots(num_slots) < num_tokens_B[:, None]
    out_BW.fill(-1)
    out_BW[:, 0] = num_tokens_B
    out_BW[:, 1] = 0
    top_k = 0 if topk is None else topk.ids_BSK.shape[2]
    starts = record_starts(num_slots, top_k)
    np.copyto(out_BW[:, starts[0] : starts[0] + num_slots], ids_BS, where=is_accepted_BS)
    if topk is None:
        return
    words = num_slots * top_k
    for start, value in zip(starts[1:3], (topk.ids_BSK.numpy(), _bits(topk.logprobs_BSK)), strict=True):
        accepted = np.where(is_accepted_BS[:, :, None], value, -1)
        out_BW[:, start : start + words] = accepted.reshape(num_requests, words)
    ranks_BS = out_BW[:, starts[3] : starts[3] + num_slots]
    np.copyto(ranks_BS, topk.token_ranks_BS.numpy(), where=is_accepted_BS)


def _bits(logprobs_BSK: torch.Tensor) -> Int32Array:
    bits: Int32Array = logprobs_BSK.numpy().view(np.int32)
    return bits


@functools.lru_cache(maxsize=64)
def _slots(num_slots: int) -> NDArray[np.int32]:
    return np.arange(num_slots, dtype=np.int32)
