# SPDX-License-Identifier: Apache-2.0
"""Defines FastDeploy's four operators of its output queue, and the numbers by which they find a channel.

An operator checks its arguments and hands the tensors to the channel of that number. What a channel is, this file
does not know: `vllm_ascend_ext.mtp_output.fastdeploy` opens channels and registers them here.
docs/internals/fastdeploy.md explains the arguments.

Shapes: B = requests, S = token positions of a request, K = top-k entries of a token.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Protocol

import torch

from vllm_ascend_ext.ops._library import LIBRARY

NOTHING_SENT, NOTHING_READ = -1, -2
TARGET_FLAG, DRAFT_FLAG = 3, 4
"""FastDeploy's flags of a message: of the target's tokens, of the draft's."""


class TopKTensors(NamedTuple):
    """Holds the best K tokens of each position, and the rank of the token that was taken."""

    ids_BSK: torch.Tensor
    logprobs_BSK: torch.Tensor
    ranks_BS: torch.Tensor


class TokenTensors(NamedTuple):
    """Holds one model's tokens of a step. stop_flags_B: whether each request has finished; None for a draft."""

    tokens_BS: torch.Tensor
    counts_B: torch.Tensor
    stop_flags_B: torch.Tensor | None
    topk: TopKTensors | None


class SendingChannel(Protocol):
    """Sends for `speculate_save_output`."""

    def send(self, step: int, request_ids: list[str], target: TokenTensors, draft: TokenTensors | None) -> int:
        """Sends one frame and returns its sequence."""
        ...

    def close(self) -> None:
        """Ends the channel."""
        ...


class ReceivingChannel(Protocol):
    """Reads for `speculate_get_output`."""

    def receive(
        self,
        timeout_s: float,
        message_flag: int,
        tokens_BS: torch.Tensor,
        counts_B: torch.Tensor,
        topk: TopKTensors | None,
    ) -> int:
        """Fills the tensors and returns the number of requests; `NOTHING_READ` when no frame came in time."""
        ...

    def close(self) -> None:
        """Ends the channel."""
        ...


_senders: dict[int, SendingChannel] = {}
_receivers: dict[int, ReceivingChannel] = {}
_numbers = count(1)


def register_sender(channel: SendingChannel) -> int:
    """Returns the number by which `speculate_save_output` finds `channel` from now on."""
    number = next(_numbers)
    _senders[number] = channel
    return number


def register_receiver(channel: ReceivingChannel) -> int:
    """Returns the number by which `speculate_get_output` finds `channel` from now on."""
    number = next(_numbers)
    _receivers[number] = channel
    return number


def sender(channel: int) -> SendingChannel:
    """Returns the sending channel of a number.

    Raises:
        KeyError: no sender has that number.
    """
    if channel not in _senders:
        raise KeyError(f"{channel} is no open sender; `mtp_output.fastdeploy.open_output_sender` gives one")
    return _senders[channel]


def receiver(channel: int) -> ReceivingChannel:
    """Returns the receiving channel of a number.

    Raises:
        KeyError: no receiver has that number.
    """
    if channel not in _receivers:
        raise KeyError(f"{channel} is no open receiver; `mtp_output.fastdeploy.open_output_receiver` gives one")
    return _receivers[channel]


def close_channel(channel: int) -> None:
    """Closes a sender or receiver and forgets its number.

    Raises:
        KeyError: there is no such channel.
    """
    if channel not in _senders and channel not in _receivers:
        raise KeyError(f"{channel} is no open channel")
    ended = _senders.pop(channel, None) or _receivers.pop(channel)
    ended.close()


def _is_sending_rank(rank_id: int) -> bool:
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
    if not _is_sending_rank(rank_id):
        return NOTHING_SENT
    target = TokenTensors(accept_tokens, accept_num, stop_flags, None)
    return sender(channel).send(step, request_ids, target, None)


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
    if not _is_sending_rank(rank_id):
        return NOTHING_SENT
    if (draft_tokens is None) != (draft_num is None) or (draft_topk and draft_tokens is None):
        raise ValueError("draft_tokens and draft_num come together, and draft_topk only with them")
    if draft_topk and len(draft_topk) != 3:
        raise ValueError(f"draft_topk is ids, log-probabilities and ranks, not {len(draft_topk)} tensors")
    topk = TopKTensors(topk_ids, topk_logprobs, token_ranks)
    target = TokenTensors(accept_tokens, accept_num, stop_flags, topk)
    draft = None
    if draft_tokens is not None and draft_num is not None:
        draft = TokenTensors(draft_tokens, draft_num, None, TopKTensors(*draft_topk) if draft_topk else None)
    return sender(channel).send(step, request_ids, target, draft)


def _check_flag(message_flag: int) -> None:
    if message_flag not in (TARGET_FLAG, DRAFT_FLAG):
        raise ValueError(f"a message has flag {TARGET_FLAG} (target) or {DRAFT_FLAG} (draft), not {message_flag}")


def _get_output(
    tokens: torch.Tensor,
    num_accepted: torch.Tensor,
    channel: int,
    timeout_s: float,
    message_flag: int = TARGET_FLAG,
) -> int:
    _check_flag(message_flag)
    return receiver(channel).receive(timeout_s, message_flag, tokens, num_accepted, None)


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
    _check_flag(message_flag)
    topk = TopKTensors(topk_ids, topk_logprobs, token_ranks)
    return receiver(channel).receive(timeout_s, message_flag, tokens, num_accepted, topk)


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
    accept_tokens ``[B, S]``, accept_num ``[B]``, stop_flags ``[B]``: integers; counts as
        docs/internals/fastdeploy.md lists them.
    channel: from `open_output_sender`. step: the engine's. request_ids: B of them.

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
