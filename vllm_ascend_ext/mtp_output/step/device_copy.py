# SPDX-License-Identifier: Apache-2.0
"""Copies a step's output from the device to the host: packed, once, asynchronously, off the main stream.

Shapes: B = requests, S = token slots a request (1 + the step's longest draft), D = S - 1 = draft slots,
K = columns of log-probabilities, N = words of a buffer.

Orders, each by an event or by the order within one stream:

1. main: sampling → pack into a buffer's device memory → event A (`packed`).  Same stream.
2. side: wait A → one copy to pinned memory → event B (`arrived`).          A orders the read after the write.
3. host: B reached → read pinned memory → `release`.                        B orders the read after the copy.
4. main: pack into the buffer again.                                          After 3, so after the side's read.

Buffers, pinned memory and events live as long as the object; nothing else crosses streams.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeVar

import torch

from vllm_ascend_ext.device import Device
from vllm_ascend_ext.mtp_output.frames.section import Int32Array
from vllm_ascend_ext.mtp_output.step.host_pack import write_records
from vllm_ascend_ext.mtp_record import record_words
from vllm_ascend_ext.ops.mtp_pack import MtpOutput, TopK, mtp_pack_output, mtp_unpack_output, topk_of

SIDE_STREAM = "mtp output"
Words = TypeVar("Words", torch.Tensor, Int32Array)


@dataclass(frozen=True, slots=True)
class SampledTensors:
    """Holds what a step sampled, on the device.

    token_ids_BS: ``[B, S]``, accepted ones first, then -1.
    draft_ids_BD: ``[B, D]``, the drafts that were verified, then -1; None where there were none.
    topk_ids_BSK, topk_logprobs_BSK, token_ranks_BS: log-probabilities as `mtp_pack_output` takes them, all or
        none.
    """

    token_ids_BS: torch.Tensor
    draft_ids_BD: torch.Tensor | None = None
    topk_ids_BSK: torch.Tensor | None = None
    topk_logprobs_BSK: torch.Tensor | None = None
    token_ranks_BS: torch.Tensor | None = None

    @property
    def shape(self) -> PackedShape:
        """Returns the shape of the buffer that these make."""
        batch, num_slots = self.token_ids_BS.shape
        top_k = 0 if self.topk_ids_BSK is None else self.topk_ids_BSK.shape[2]
        return PackedShape(batch, num_slots, top_k, 0 if self.draft_ids_BD is None else self.draft_ids_BD.shape[1])


@dataclass(frozen=True, slots=True)
class PackedShape:
    """Holds B, S, K and D of a buffer: records of B requests, then, with D, records of their drafts."""

    num_requests: int
    num_slots: int
    top_k: int
    num_draft_slots: int

    @property
    def target_words(self) -> int:
        """Returns the words of the records of accepted tokens."""
        return self.num_requests * record_words(self.num_slots, self.top_k)

    @property
    def words(self) -> int:
        """Returns N, the words of the whole buffer."""
        if not self.num_draft_slots:
            return self.target_words
        return self.target_words + self.num_requests * record_words(self.num_draft_slots, 0)

    def split(self, words_N: Words) -> tuple[Words, Words | None]:
        """Splits a tensor or an array into views ``[B, W]`` of the records of accepted tokens and of drafts."""
        num_target = self.target_words
        target_BW = words_N[:num_target].reshape(self.num_requests, -1)
        if not self.num_draft_slots:
            return target_BW, None
        return target_BW, words_N[num_target : self.words].reshape(self.num_requests, -1)


@dataclass(slots=True)
class RecordCopierStats:
    """Counts the copies and their bytes."""

    num_copies: int = 0
    num_bytes: int = 0


class _Buffer:
    """Holds the memory ``[N]`` of one step on its way, for the largest step, and its two events."""

    def __init__(self, num_words: int, device: Device) -> None:
        self.words_N = torch.empty(num_words, dtype=torch.int32, device=device.device)
        self.words_N_cpu = device.pinned_empty((num_words,), torch.int32)
        self.packed, self.arrived = device.event(), device.event()


class PackedRecords:
    """Holds the packed records of one step on its way to the host; `words` blocks, and `release` gives the memory
    back."""

    def __init__(self, owner: RecordCopier, buffer: _Buffer, shape: PackedShape) -> None:
        self.shape = shape
        self._owner, self._buffer = owner, buffer
        self._is_released = False

    def words(self) -> torch.Tensor:
        """Returns the buffer ``[N]`` int32 in pinned memory, valid until `release`.

        Raises:
            DeadlineError: the copy has not arrived in time.
        """
        if self._is_released:
            raise RuntimeError("the output of this step was released")
        self._buffer.arrived.synchronize(self._owner.deadline_s)
        return self._buffer.words_N_cpu[: self.shape.words]

    def release(self) -> None:
        """Gives the memory back: nobody reads `words` any more. A second call changes nothing."""
        if not self._is_released:
            self._is_released = True
            self._owner.free.append(self._buffer)


class RecordCopier:
    """Packs steps and copies them, on the rank that sends.

    `launch` is the main thread's; a `PackedRecords` may be waited for and released by another.

    Args:
        device: the device of the sampled tensors.
        largest: the shape of the largest step, which sizes the buffers.
        num_buffers: how many steps may be on their way.
        deadline_s: longest time that any wait may take, in seconds.
        vocab_size: size of the vocabulary. After drafts were verified, an id not below it does not count, as vLLM
            filters what its rejection sampler has put out. It can only be a request's last: drafts are in the
            vocabulary.
    """

    def __init__(
        self, device: Device, largest: PackedShape, *, num_buffers: int, deadline_s: float, vocab_size: int
    ) -> None:
        if num_buffers < 1 or deadline_s <= 0:
            raise ValueError(f"{num_buffers} buffers, a deadline of {deadline_s:g} s")
        self.stats = RecordCopierStats()
        self.device, self.largest, self.deadline_s = device, largest, deadline_s
        self._vocab_size = vocab_size
        self._samples_on_host = not device.capabilities.side_streams  # and nothing runs beside the host
        self.side = device.stream(SIDE_STREAM)
        self.free = deque(_Buffer(largest.words, device) for _ in range(num_buffers))
        for buffer in self.free:
            device.keep_for(buffer.words_N, self.side)
        self._addresses = frozenset(buffer.words_N.data_ptr() for buffer in self.free)
        self._running_B = torch.zeros(largest.num_requests, dtype=torch.int32, device=device.device)

    @property
    def addresses(self) -> frozenset[int]:
        """Returns the addresses of the buffers' device memory, which is all that is ever copied."""
        return self._addresses

    def launch(self, sampled: SampledTensors) -> PackedRecords:
        """Packs what the main stream has sampled and sends it on its way. Never waits.

        Raises:
            ValueError: the step is larger than the largest.
            RuntimeError: no buffer is free, or a graph is being captured.
        """
        shape = sampled.shape
        if shape.num_requests > self.largest.num_requests or shape.words > self.largest.words:
            raise ValueError(f"a step of {shape} does not fit into buffers for {self.largest}")
        if self.device.is_capturing():
            raise RuntimeError("the output of a step cannot be captured in a graph")
        if not self.free:
            raise RuntimeError("every buffer is on its way; release the oldest step first")
        buffer = self.free.popleft()
        if self._samples_on_host:
            self._pack_on_host(sampled, shape, buffer.words_N_cpu.numpy())
        else:
            self._pack(sampled, buffer.words_N[: shape.words])
            buffer.packed.record()
            with self.device.stream_switch(self.side):
                buffer.packed.wait()
                buffer.words_N_cpu[: shape.words].copy_(buffer.words_N[: shape.words], non_blocking=True)
                buffer.arrived.record()
        self.stats.num_copies += 1
        self.stats.num_bytes += 4 * shape.words
        return PackedRecords(self, buffer, shape)

    def _pack_on_host(self, sampled: SampledTensors, shape: PackedShape, out_N: Int32Array) -> None:
        """Packs as `_pack` does, straight to where the copy goes."""
        topk = topk_of(sampled.topk_ids_BSK, sampled.topk_logprobs_BSK, sampled.token_ranks_BS)
        target_BW, draft_BW = shape.split(out_N)
        write_records(target_BW, sampled.token_ids_BS, topk, self._vocab_size)
        if draft_BW is not None and sampled.draft_ids_BD is not None:
            write_records(draft_BW, sampled.draft_ids_BD, None, self._vocab_size)

    def _pack(self, sampled: SampledTensors, out_N: torch.Tensor) -> None:
        topk = topk_of(sampled.topk_ids_BSK, sampled.topk_logprobs_BSK, sampled.token_ranks_BS)
        parts = [self._records(sampled.token_ids_BS, topk)]
        if sampled.draft_ids_BD is not None:
            parts.append(self._records(sampled.draft_ids_BD, None))
        torch.cat([part.flatten() for part in parts], out=out_N)

    def _records(self, token_ids_BS: torch.Tensor, topk: TopK | None) -> torch.Tensor:
        is_token_BS = token_ids_BS >= 0
        if token_ids_BS.shape[1] > 1:
            is_token_BS &= token_ids_BS < self._vocab_size
        num_tokens_B = is_token_BS.sum(dim=1, dtype=torch.int32)
        return mtp_pack_output(token_ids_BS, num_tokens_B, self._running_B[: len(token_ids_BS)], topk)


def unpack(words_N_cpu: torch.Tensor, shape: PackedShape) -> tuple[MtpOutput, MtpOutput | None]:
    """Returns views of the accepted tokens and of the drafts in a host copy (`mtp_unpack_output`)."""
    target_BW, draft_BW = shape.split(words_N_cpu)
    drafts = None if draft_BW is None else mtp_unpack_output(draft_BW, shape.num_draft_slots, 0)
    return mtp_unpack_output(target_BW, shape.num_slots, shape.top_k), drafts


def draft_rows(draft_ids_N: torch.Tensor, num_drafts: list[int], cu_num_drafts_B: torch.Tensor) -> torch.Tensor:
    """Arranges the drafts of all requests in one row each.

    Args:
        draft_ids_N: all drafts, one request after the other.
        num_drafts: number of drafts of each request, on the host.
        cu_num_drafts_B: ``[B]`` running sums of `num_drafts`, on the device.

    Returns:
        ``[B, max(num_drafts)]`` int32, short rows filled with -1.
    """
    longest = max(num_drafts)
    draft_ids_N = draft_ids_N.to(torch.int32)
    if min(num_drafts) == longest:
        return draft_ids_N.view(-1, longest)
    device = draft_ids_N.device
    ends_B1 = cu_num_drafts_B.view(-1, 1)
    begins_B1 = torch.cat([ends_B1.new_zeros(1, 1), ends_B1[:-1]])
    places_BD = begins_B1 + torch.arange(longest, device=device)
    rows_BD = draft_ids_N[places_BD.clamp(max=draft_ids_N.shape[0] - 1)]
    return torch.where(places_BD < ends_B1, rows_BD, -1)
