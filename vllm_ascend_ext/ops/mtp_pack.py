# SPDX-License-Identifier: Apache-2.0
"""Defines `mtp_pack_output` and its inverse on the host: all a step has accepted in one buffer, so in one copy.

Shapes: B = requests, S = token slots a request (1 + speculative tokens), K = top-k, W = words of a record. The
layout of a record is in `vllm_ascend_ext.mtp_record`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from vllm_ascend_ext.mtp_record import UNIT, MtpRecord
from vllm_ascend_ext.ops._library import define_op


class MtpOutput(NamedTuple):
    """Holds what was packed, as views of the host copy. Past ``num_accepted_B[b]`` slots hold -1 (NaN)."""

    num_accepted_B: torch.Tensor
    status_B: torch.Tensor
    token_ids_BS: torch.Tensor
    topk_ids_BSK: torch.Tensor | None
    topk_logprobs_BSK: torch.Tensor | None
    token_ranks_BS: torch.Tensor | None


class TopK(NamedTuple):
    """Holds the most probable tokens of each token slot, K >= 1.

    Attributes:
        ids_BSK: token ids ``[B, S, K]`` int32.
        logprobs_BSK: their log-probabilities ``[B, S, K]`` float32.
        token_ranks_BS: rank of the token that was sampled ``[B, S]`` int32.
    """

    ids_BSK: torch.Tensor
    logprobs_BSK: torch.Tensor
    token_ranks_BS: torch.Tensor


def topk_of(*tensors: torch.Tensor | None) -> TopK | None:
    """Returns the top-k of the operator's optional arguments; None without it.

    Raises:
        ValueError: only some of the three are there.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if len(given) not in (0, 3):
        raise ValueError("mtp_pack_output takes top-k ids, log-probabilities and ranks together or none of them")
    return TopK(*given) if given else None


def check(
    token_ids_BS: torch.Tensor, num_accepted_B: torch.Tensor, status_B: torch.Tensor, topk: TopK | None
) -> MtpRecord:
    """Returns the record that these tensors make. Raises what `mtp_pack_output` says it raises."""
    if token_ids_BS.dim() != 2 or token_ids_BS.shape[1] == 0:
        raise ValueError(f"mtp_pack_output takes token_ids [B, S] with S >= 1, not {list(token_ids_BS.shape)}")
    batch, slots = token_ids_BS.shape
    top_k = topk.ids_BSK.shape[-1] if topk is not None else 0
    expected = [(batch,), (batch,), (batch, slots, top_k), (batch, slots, top_k), (batch, slots)]
    tensors = [num_accepted_B, status_B, *(topk or ())]
    if any(tuple(t.shape) != shape for t, shape in zip(tensors, expected, strict=False)) or (topk and not top_k):
        raise ValueError(
            "mtp_pack_output takes num_accepted [B], status [B], top-k ids and log-probabilities [B, S, K] with "
            f"K >= 1, ranks [B, S] beside token_ids {list(token_ids_BS.shape)}, not shapes "
            f"{[list(tensor.shape) for tensor in tensors]}"
        )
    dtypes = [torch.int32] * 4 + [torch.float32, torch.int32]
    if any(t.dtype != dtype for t, dtype in zip([token_ids_BS, *tensors], dtypes, strict=False)):
        raise TypeError("mtp_pack_output takes int32 tensors, and float32 for the log-probabilities")
    if any(tensor.device != token_ids_BS.device for tensor in tensors):
        raise ValueError("mtp_pack_output takes tensors of one device")
    return MtpRecord(slots, top_k)


def _reference(
    token_ids_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    status_B: torch.Tensor,
    *optional: torch.Tensor | None,
) -> torch.Tensor:
    topk = topk_of(*optional)
    record = check(token_ids_BS, num_accepted_B, status_B, topk)
    accepted_B = num_accepted_B.clamp(0, record.num_slots)
    slots_S = torch.arange(record.num_slots, device=token_ids_BS.device)
    is_accepted_BS = slots_S < accepted_B.unsqueeze(1)
    sections = [torch.stack([accepted_B, status_B], dim=1)]
    values = [token_ids_BS]
    if topk is not None:
        values += [topk.ids_BSK, topk.logprobs_BSK.view(torch.int32), topk.token_ranks_BS]
    for value in values:
        keep = is_accepted_BS if value.dim() == 2 else is_accepted_BS.unsqueeze(2)
        sections.append(torch.where(keep, value, -1).flatten(1))
    padded = [F.pad(section, (0, -section.shape[1] % UNIT), value=-1) for section in sections]
    return torch.cat(padded, dim=1)


def _fake(
    token_ids_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    status_B: torch.Tensor,
    *optional: torch.Tensor | None,
) -> torch.Tensor:
    record = check(token_ids_BS, num_accepted_B, status_B, topk_of(*optional))
    return token_ids_BS.new_empty(token_ids_BS.shape[0], record.words)


_OP = define_op(
    "mtp_pack_output(Tensor token_ids_BS, Tensor num_accepted_B, Tensor status_B, Tensor? topk_ids_BSK=None, "
    "Tensor? topk_logprobs_BSK=None, Tensor? token_ranks_BS=None) -> Tensor",
    reference=_reference,
    fake=_fake,
)


def mtp_pack_output(
    token_ids_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    status_B: torch.Tensor,
    topk: TopK | None = None,
) -> torch.Tensor:
    """Packs one record a request into one contiguous buffer; slots that were not accepted are blanked.

    Never waits for the device, and its size depends on shapes alone, so it can be captured in a graph.

    Args:
        token_ids_BS: ``[B, S]`` int32; B may be 0.
        num_accepted_B: ``[B]`` int32; outside 0 to S it is taken as the nearer of the two.
        status_B: ``[B]`` int32, passed through.
        topk: the most probable tokens of each slot; None to leave them out.

    Returns:
        ``[B, W]`` int32 on the same device, W = ``MtpRecord(S, K).words``; see the module for a record's layout.

    Raises:
        ValueError: other shapes, or tensors of different devices.
        TypeError: other dtypes.
    """
    buffer_BW: torch.Tensor = _OP(token_ids_BS, num_accepted_B, status_B, *(topk or ()))
    return buffer_BW


def mtp_unpack_output(buffer_BW_cpu: torch.Tensor, num_slots: int, top_k: int) -> MtpOutput:
    """Reads a host copy of what `mtp_pack_output` made, without copying it.

    Args:
        buffer_BW_cpu: ``[B, W]`` int32.
        num_slots, top_k: S and K of the packed tensors; K = 0 without top-k.

    Raises:
        ValueError: the buffer has another shape or dtype than these make, or an impossible count of tokens.
    """
    record = MtpRecord(num_slots, top_k)
    if buffer_BW_cpu.dim() != 2 or buffer_BW_cpu.shape[1] != record.words or buffer_BW_cpu.dtype != torch.int32:
        raise ValueError(
            f"records of {num_slots} slots and top-k {top_k} make an int32 buffer [B, {record.words}], not "
            f"{buffer_BW_cpu.dtype} {list(buffer_BW_cpu.shape)}"
        )
    num_accepted_B = buffer_BW_cpu[:, 0]
    if (num_accepted_B.numpy().view(np.uint32) > num_slots).any():  # a negative count is a very large one
        raise ValueError(f"a record says that it holds none of 0 to {num_slots} tokens: {num_accepted_B.tolist()}")
    status_B, starts = buffer_BW_cpu[:, 1], record.starts
    token_ids_BS = buffer_BW_cpu[:, starts[0] : starts[0] + num_slots]
    if not top_k:
        return MtpOutput(num_accepted_B, status_B, token_ids_BS, None, None, None)
    top = [buffer_BW_cpu[:, start : start + num_slots * top_k].view(-1, num_slots, top_k) for start in starts[1:3]]
    return MtpOutput(
        num_accepted_B,
        status_B,
        token_ids_BS,
        top[0],
        top[1].view(torch.float32),
        buffer_BW_cpu[:, starts[3] : starts[3] + num_slots],
    )
