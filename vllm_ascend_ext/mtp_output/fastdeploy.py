# SPDX-License-Identifier: Apache-2.0
"""FastDeploy's four operators of its output queue, with their names and meanings, on top of our channel.

Differences are refusals of what goes wrong there (docs/mtp_output.md): any number of requests and tokens that the
channel was made for, target and draft in one frame, and a full channel raises instead of dropping.

Statuses travel in the counts, as there: -9 preempted, -3 recovered, 0 skipped; a count of at least 1 is of a
request that runs, or has finished where `stop_flags` says so. Channels are numbers, given by `open_output_sender`
and `open_output_receiver` and valid until `close_output_channel`.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import torch

from vllm_ascend_ext.mtp_output.errors import NoFrameError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, Section, Source
from vllm_ascend_ext.mtp_output.frames.section import RequestStatus
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.sender import OutputSender
from vllm_ascend_ext.ops._library import LIBRARY

PREEMPTED, RECOVERED, SKIPPED = -9, -3, 0
NOTHING_READ = -2
TARGET_FLAG, DRAFT_FLAG = 3, 4
"""FastDeploy's flags of a message: of the target's tokens, of the draft's."""

_STATUS_OF_COUNT = {
    PREEMPTED: RequestStatus.PREEMPTED,
    RECOVERED: RequestStatus.RECOVERED,
    SKIPPED: RequestStatus.SKIPPED,
}
_COUNT_OF_STATUS = {status: number for number, status in _STATUS_OF_COUNT.items()}
_senders: dict[int, OutputSender] = {}
_receivers: dict[int, OutputReceiver] = {}
_last_frames: dict[int, Frame] = {}
_numbers = count(1)


def open_output_sender(sender: OutputSender) -> int:
    """The number by which `speculate_save_output` knows `sender`."""
    number = next(_numbers)
    _senders[number] = sender
    return number


def open_output_receiver(receiver: OutputReceiver) -> int:
    """The number by which `speculate_get_output` knows `receiver`."""
    number = next(_numbers)
    _receivers[number] = receiver
    return number


def close_output_channel(channel: int) -> None:
    """Closes the sender or receiver, and forgets it. A sender's unread frames stay for the reader.

    Raises:
        KeyError: there is no such channel.
    """
    if channel in _senders:
        _senders.pop(channel).close(keeps_unread=True)
    else:
        _receivers.pop(channel).close()
    _last_frames.pop(channel, None)


def received_frame(channel: int) -> Frame:
    """The frame that the last `speculate_get_output` of `channel` read: its step, sequence and request ids.

    Raises:
        KeyError: none was read, or there is no such channel.
    """
    return _last_frames[channel]


def _section(
    source: Source,
    request_ids: list[str],
    tokens_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    stop_flags_B: torch.Tensor | None,
    topk: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
) -> Section:
    counts_B = num_accepted_B.cpu().numpy().astype(np.int32)
    if np.any((counts_B < 0) & (counts_B != PREEMPTED) & (counts_B != RECOVERED)):
        raise ValueError(f"counts are of tokens, -9 (preempted) or -3 (recovered), not {counts_B.tolist()}")
    status_B = np.full(counts_B.shape, RequestStatus.RUNNING, np.int32)
    for number, status in _STATUS_OF_COUNT.items():
        status_B[counts_B == number] = status
    if stop_flags_B is not None:
        status_B[stop_flags_B.cpu().numpy().astype(bool) & (counts_B >= 0)] = RequestStatus.FINISHED
    arrays = [None, None, None] if topk is None else [tensor.cpu().numpy() for tensor in topk]
    tokens = tokens_BS.cpu().numpy().astype(np.int32)
    return Section.from_arrays(source, tuple(request_ids), np.maximum(counts_B, 0), status_B, tokens, *arrays)


def _is_sender(rank_id: int) -> bool:
    if rank_id < 0:
        raise ValueError(f"a rank of a tensor-parallel group is 0 or more, not {rank_id}")
    return rank_id == 0


def _save_output(
    accept_tokens: torch.Tensor,
    accept_num: torch.Tensor,
    stop_flags: torch.Tensor,
    channel: int,
    step: int,
    request_ids: list[str],
    rank_id: int = 0,
    save_each_rank: bool = False,
) -> int:
    if not _is_sender(rank_id):
        return -1
    target = _section(Source.TARGET, request_ids, accept_tokens, accept_num, stop_flags, None)
    return _senders[channel].send(step, target)


def _save_output_with_topk(
    accept_tokens: torch.Tensor,
    accept_num: torch.Tensor,
    stop_flags: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_logprobs: torch.Tensor,
    token_ranks: torch.Tensor,
    channel: int,
    step: int,
    request_ids: list[str],
    rank_id: int = 0,
    save_each_rank: bool = False,
    draft_tokens: torch.Tensor | None = None,
    draft_num: torch.Tensor | None = None,
    draft_topk: list[torch.Tensor] | None = None,
) -> int:
    if not _is_sender(rank_id):
        return -1
    if (draft_tokens is None) != (draft_num is None) or (draft_topk and draft_tokens is None):
        raise ValueError("draft_tokens and draft_num come together, and draft_topk only with them")
    topk = (topk_ids, topk_logprobs, token_ranks)
    target = _section(Source.TARGET, request_ids, accept_tokens, accept_num, stop_flags, topk)
    draft = None
    if draft_tokens is not None and draft_num is not None:
        of_draft = (draft_topk[0], draft_topk[1], draft_topk[2]) if draft_topk else None
        draft = _section(Source.DRAFT, request_ids, draft_tokens, draft_num, None, of_draft)
    return _senders[channel].send(step, target, draft)


def _get_output(
    tokens: torch.Tensor,
    num_accepted: torch.Tensor,
    channel: int,
    timeout_s: float,
    message_flag: int = TARGET_FLAG,
) -> int:
    section = _next_section(channel, timeout_s, message_flag)
    return NOTHING_READ if section is None else _fill(section, tokens, num_accepted, None)


def _get_output_with_topk(
    tokens: torch.Tensor,
    num_accepted: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_logprobs: torch.Tensor,
    token_ranks: torch.Tensor,
    channel: int,
    timeout_s: float,
    message_flag: int = TARGET_FLAG,
) -> int:
    section = _next_section(channel, timeout_s, message_flag)
    if section is None:
        return NOTHING_READ
    return _fill(section, tokens, num_accepted, (topk_ids, topk_logprobs, token_ranks))


def _next_section(channel: int, timeout_s: float, message_flag: int) -> Section | None:
    """The target's section of the next frame, or the draft's of the frame whose target was read last."""
    if message_flag == DRAFT_FLAG:
        return _last_frames[channel].section(Source.DRAFT) if channel in _last_frames else None
    if message_flag != TARGET_FLAG:
        raise ValueError(f"a message has flag {TARGET_FLAG} (target) or {DRAFT_FLAG} (draft), not {message_flag}")
    try:
        _last_frames[channel] = _receivers[channel].receive(timeout_s)
    except NoFrameError:
        return None
    return _last_frames[channel].section(Source.TARGET)


def _fill(
    section: Section,
    tokens_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    topk: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
) -> int:
    batch, num_slots = len(section.request_ids), section.num_slots
    if tokens_BS.shape[0] < batch or num_accepted_B.shape[0] < batch or tokens_BS.shape[1] < num_slots:
        raise ValueError(
            f"{batch} requests of {num_slots} slots do not fit tokens {list(tokens_BS.shape)} and counts "
            f"{list(num_accepted_B.shape)}"
        )
    if topk is not None:
        _check_topk(section, *topk)
    counts_B = section.num_accepted_B.copy()
    for status, number in _COUNT_OF_STATUS.items():
        counts_B[(section.status_B == status) & (counts_B == 0)] = number
    num_accepted_B[:batch].copy_(torch.from_numpy(counts_B))
    tokens_BS[:batch, :num_slots].copy_(torch.from_numpy(section.token_ids_BS.copy()))
    if topk is not None:
        _, ids, logprob_bits, ranks = section.parts()
        top_k = section.top_k
        topk[0][:batch, :num_slots, :top_k].copy_(torch.from_numpy(ids.copy()))
        topk[1][:batch, :num_slots, :top_k].copy_(torch.from_numpy(logprob_bits.view(np.float32).copy()))
        topk[2][:batch, :num_slots].copy_(torch.from_numpy(ranks.copy()))
    return batch


def _check_topk(section: Section, ids: torch.Tensor, logprobs: torch.Tensor, ranks: torch.Tensor) -> None:
    """Before anything is written."""
    if not section.top_k:
        raise ValueError("the frame has no top-k: read it by speculate_get_output")
    needed = (len(section.request_ids), section.num_slots, section.top_k)
    for tensor in (ids, logprobs, ranks):
        if any(has < wants for has, wants in zip(tensor.shape, needed, strict=False)):
            raise ValueError(f"top-k {list(needed)} does not fit {list(tensor.shape)}")


_SENDING = "int channel, int step, str[] request_ids, int rank_id=0, bool save_each_rank=False"
_TOPK = "Tensor topk_ids, Tensor topk_logprobs, Tensor token_ranks"
_SCHEMAS = {
    f"speculate_save_output(Tensor accept_tokens, Tensor accept_num, Tensor stop_flags, {_SENDING}) -> int": (
        _save_output
    ),
    f"speculate_save_output_with_topk(Tensor accept_tokens, Tensor accept_num, Tensor stop_flags, {_TOPK}, "
    f"{_SENDING}, Tensor? draft_tokens=None, Tensor? draft_num=None, Tensor[]? draft_topk=None) -> int": (
        _save_output_with_topk
    ),
    "speculate_get_output(Tensor(a!) tokens, Tensor(b!) num_accepted, int channel, float timeout_s, "
    "int message_flag=3) -> int": _get_output,
    "speculate_get_output_with_topk(Tensor(a!) tokens, Tensor(b!) num_accepted, Tensor(c!) topk_ids, "
    "Tensor(d!) topk_logprobs, Tensor(e!) token_ranks, int channel, float timeout_s, int message_flag=3) -> int": (
        _get_output_with_topk
    ),
}
for _schema, _function in _SCHEMAS.items():
    # these move data to and from other processes: no device has a kernel of them, and nothing traces them
    LIBRARY.define(_schema)  # type: ignore[no-untyped-call]
    LIBRARY.impl(_schema.split("(", 1)[0], _function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]

speculate_save_output = torch.ops.ascend_ext.speculate_save_output.default
"""Sends one step's accepted tokens; returns the frame's sequence, -1 on ranks that do not send.

All ranks of a replica call it; the one with `rank_id` 0, its rank in the tensor-parallel group, sends, on every
data-parallel replica into a channel of its own. `save_each_rank` is accepted as FastDeploy's name for that meaning
and changes nothing: expert parallelism adds no senders. Waits for the device that the tensors are on.

Args:
    accept_tokens ``[B, S]``, accept_num ``[B]``, stop_flags ``[B]``: integers; see the module for counts.
    channel: by `open_output_sender`. step: the engine's. request_ids: B of them.

Raises:
    ChannelFullError, ReaderGoneError, ChannelSizeError, ValueError: what `OutputSender.send` says.
    ValueError: a negative `rank_id`.
    KeyError: there is no such channel.
"""
speculate_save_output_with_topk = torch.ops.ascend_ext.speculate_save_output_with_topk.default
"""`speculate_save_output` with ``topk_ids`` and ``topk_logprobs`` ``[B, S, K]`` and ``token_ranks`` ``[B, S]``.

``draft_tokens``, ``draft_num`` and ``draft_topk`` (ids, log-probabilities, ranks) go into the same frame.
"""
speculate_get_output = torch.ops.ascend_ext.speculate_get_output.default
"""Reads the next frame into ``tokens [>= B, >= S]`` and ``num_accepted [>= B]``; returns B, -2 when none came.

With `message_flag` 4 the draft's part of the frame that was read last. `received_frame` has its step and ids.

Raises:
    ValueError: the tensors are too small. The frame is then not lost: `received_frame` has it.
    WriterGoneError, ChannelClosedError, FrameError, SequenceError: what `OutputReceiver.receive` says.
"""
speculate_get_output_with_topk = torch.ops.ascend_ext.speculate_get_output_with_topk.default
"""`speculate_get_output` with ``topk_ids``, ``topk_logprobs [>= B, >= S, >= K]``, ``token_ranks [>= B, >= S]``."""
