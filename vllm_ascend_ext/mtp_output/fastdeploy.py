# SPDX-License-Identifier: Apache-2.0
"""Gives FastDeploy's four operators of their output queue channels: tensors become frames, and frames tensors.

The operators are in `vllm_ascend_ext.ops.speculate_output`. What differs from FastDeploy are refusals of what goes
wrong there (docs/internals/fastdeploy.md): any number of requests and tokens that the channel was made for, target
and draft in one frame, and a full channel raises instead of dropping.

Statuses travel in the counts, as there: -9 preempted, -3 recovered, 0 skipped; a count of at least 1 is of a
request that runs, or has finished where `stop_flags` says so. Channels are numbers, given by `open_output_sender`
and `open_output_receiver` and valid until `close_output_channel`.
"""

from __future__ import annotations

import numpy as np
import torch

from vllm_ascend_ext.mtp_output.errors import NoFrameError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, Section, Source
from vllm_ascend_ext.mtp_output.frames.section import RequestStatus
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.sender import OutputSender
from vllm_ascend_ext.ops import speculate_output as operators
from vllm_ascend_ext.ops.speculate_output import (
    DRAFT_FLAG,
    NOTHING_READ,
    TARGET_FLAG,
    TokenTensors,
    TopKTensors,
)

__all__ = [
    "DRAFT_FLAG",
    "NOTHING_READ",
    "PREEMPTED",
    "RECOVERED",
    "SKIPPED",
    "TARGET_FLAG",
    "close_output_channel",
    "open_output_receiver",
    "open_output_sender",
    "received_frame",
]

PREEMPTED, RECOVERED, SKIPPED = -9, -3, 0

_STATUS_OF_COUNT = {
    PREEMPTED: RequestStatus.PREEMPTED,
    RECOVERED: RequestStatus.RECOVERED,
    SKIPPED: RequestStatus.SKIPPED,
}
_COUNT_OF_STATUS = {status: number for number, status in _STATUS_OF_COUNT.items()}


def open_output_sender(sender: OutputSender) -> int:
    """Returns the number by which `speculate_save_output` knows `sender`."""
    return operators.register_sender(_Sender(sender))


def open_output_receiver(receiver: OutputReceiver) -> int:
    """Returns the number by which `speculate_get_output` knows `receiver`."""
    return operators.register_receiver(_Receiver(receiver))


def close_output_channel(channel: int) -> None:
    """Closes the sender or receiver, and forgets it. A sender's unread frames stay for the reader.

    Raises:
        KeyError: there is no such channel.
    """
    operators.close_channel(channel)


def received_frame(channel: int) -> Frame:
    """Returns the frame that the last `speculate_get_output` read: its step, sequence and request ids.

    Raises:
        KeyError: none was read, or there is no such channel.
    """
    receiver = operators.receiver(channel)
    if not isinstance(receiver, _Receiver) or receiver.last_frame is None:
        raise KeyError(f"no frame was read from channel {channel}")
    return receiver.last_frame


class _Sender:
    """Sends what `speculate_save_output` gives."""

    def __init__(self, sender: OutputSender) -> None:
        self._sender = sender

    def send(self, step: int, request_ids: list[str], target: TokenTensors, draft: TokenTensors | None) -> int:
        """Sends one frame and returns its sequence."""
        of_target = _section(Source.TARGET, request_ids, target)
        return self._sender.send(step, of_target, draft and _section(Source.DRAFT, request_ids, draft))

    def close(self) -> None:
        """Closes the sender; unread frames stay."""
        self._sender.close(keeps_unread=True)


class _Receiver:
    """Reads for `speculate_get_output`. last_frame: what it read last."""

    def __init__(self, receiver: OutputReceiver) -> None:
        self._receiver = receiver
        self.last_frame: Frame | None = None

    def receive(
        self,
        timeout_s: float,
        message_flag: int,
        tokens_BS: torch.Tensor,
        counts_B: torch.Tensor,
        topk: TopKTensors | None,
    ) -> int:
        """Fills the tensors from the next frame, or from the draft's part of the frame that was read last."""
        section = self._draft() if message_flag == DRAFT_FLAG else self._next_target(timeout_s)
        return NOTHING_READ if section is None else _fill(section, tokens_BS, counts_B, topk)

    def close(self) -> None:
        """Closes the receiver; what is not acknowledged stays."""
        self._receiver.close()

    def _draft(self) -> Section | None:
        return None if self.last_frame is None else self.last_frame.section(Source.DRAFT)

    def _next_target(self, timeout_s: float) -> Section | None:
        try:
            self.last_frame = self._receiver.receive(timeout_s)
        except NoFrameError:
            return None
        return self.last_frame.section(Source.TARGET)


def _section(source: Source, request_ids: list[str], step: TokenTensors) -> Section:
    counts_B = step.counts_B.cpu().numpy().astype(np.int32)
    if np.any((counts_B < 0) & (counts_B != PREEMPTED) & (counts_B != RECOVERED)):
        raise ValueError(f"counts are of tokens, -9 (preempted) or -3 (recovered), not {counts_B.tolist()}")
    status_B = np.full(counts_B.shape, RequestStatus.RUNNING, np.int32)
    for number, status in _STATUS_OF_COUNT.items():
        status_B[counts_B == number] = status
    if step.stop_flags_B is not None:
        status_B[step.stop_flags_B.cpu().numpy().astype(bool) & (counts_B >= 0)] = RequestStatus.FINISHED
    arrays = [None, None, None] if step.topk is None else [tensor.cpu().numpy() for tensor in step.topk]
    tokens = step.tokens_BS.cpu().numpy().astype(np.int32)
    return Section.from_arrays(source, tuple(request_ids), np.maximum(counts_B, 0), status_B, tokens, *arrays)


def _fill(
    section: Section,
    tokens_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    topk: TopKTensors | None,
) -> int:
    batch, num_slots = len(section.request_ids), section.num_slots
    if tokens_BS.shape[0] < batch or num_accepted_B.shape[0] < batch or tokens_BS.shape[1] < num_slots:
        raise ValueError(
            f"{batch} requests of {num_slots} slots do not fit tokens {list(tokens_BS.shape)} and counts "
            f"{list(num_accepted_B.shape)}"
        )
    if topk is not None:
        _check_topk(section, topk)
    counts_B = section.num_accepted_B.copy()
    for status, number in _COUNT_OF_STATUS.items():
        counts_B[(section.status_B == status) & (counts_B == 0)] = number
    num_accepted_B[:batch].copy_(torch.from_numpy(counts_B))
    tokens_BS[:batch, :num_slots].copy_(torch.from_numpy(section.token_ids_BS.copy()))
    if topk is not None:
        _, ids, logprob_bits, ranks = section.parts()
        top_k = section.top_k
        topk.ids_BSK[:batch, :num_slots, :top_k].copy_(torch.from_numpy(ids.copy()))
        topk.logprobs_BSK[:batch, :num_slots, :top_k].copy_(torch.from_numpy(logprob_bits.view(np.float32).copy()))
        topk.ranks_BS[:batch, :num_slots].copy_(torch.from_numpy(ranks.copy()))
    return batch


def _check_topk(section: Section, topk: TopKTensors) -> None:
    """Refuses tensors that are too small, before anything is written."""
    if not section.top_k:
        raise ValueError("the frame has no top-k: read it by speculate_get_output")
    needed = (len(section.request_ids), section.num_slots, section.top_k)
    for tensor in topk:
        if any(has < wants for has, wants in zip(tensor.shape, needed, strict=False)):
            raise ValueError(f"top-k {list(needed)} does not fit {list(tensor.shape)}")
