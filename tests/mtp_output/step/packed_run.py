# SPDX-License-Identifier: Apache-2.0
"""Runs random steps through `RecordCopier`, a few on their way at once, compared with what was sampled."""

from __future__ import annotations

import random
from collections import deque

import torch

from vllm_ascend_ext.device import Device
from vllm_ascend_ext.mtp_output.step.device_copy import (
    PackedRecords,
    PackedShape,
    RecordCopier,
    SampledTensors,
    draft_rows,
    unpack,
)

LARGEST = PackedShape(num_requests=12, num_slots=4, top_k=3, num_draft_slots=3)


class PackedRun:
    """Runs steps of up to 12 requests, up to 3 drafts each, with and without log-probabilities.

    wrong: what differed, in words.
    """

    def __init__(self, device: Device, seed: int, *, num_buffers: int = 2) -> None:
        self.copier = RecordCopier(device, LARGEST, num_buffers=num_buffers, deadline_s=30.0, vocab_size=1000)
        self.wrong: list[str] = []
        self._device, self._random = device.device, random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._on_way: deque[tuple[PackedRecords, SampledTensors]] = deque()

    def go(self, num_steps: int) -> None:
        for _ in range(num_steps):
            on_host = self._sample()
            on_device = SampledTensors(*(None if x is None else x.to(self._device) for x in self._parts(on_host)))
            if not self.copier.free:
                self._take()
            self._on_way.append((self.copier.launch(on_device), on_host))
            while self._on_way and self._random.random() < 0.4:
                self._take()
        while self._on_way:
            self._take()

    @staticmethod
    def _parts(sampled: SampledTensors) -> list[torch.Tensor | None]:
        return [
            sampled.token_ids_BS,
            sampled.draft_ids_BD,
            sampled.topk_ids_BSK,
            sampled.topk_logprobs_BSK,
            sampled.token_ranks_BS,
        ]

    def _integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=self._generator, dtype=torch.int32)

    def _sample(self) -> SampledTensors:
        batch = self._random.randint(1, LARGEST.num_requests)
        num_drafts = [self._random.randint(0, LARGEST.num_draft_slots) for _ in range(batch)]
        slots = max(num_drafts) + 1
        counts = torch.tensor([self._random.randint(1, drafts + 1) for drafts in num_drafts])
        is_accepted_BS = torch.arange(slots) < counts.unsqueeze(1)
        tokens_BS = torch.where(is_accepted_BS, self._integers(1000, batch, slots), -1).to(torch.int32)
        drafts = None
        if slots > 1:
            cu_num_drafts = torch.tensor(num_drafts, dtype=torch.int32).cumsum(0)
            drafts = draft_rows(self._integers(1000, sum(num_drafts)), num_drafts, cu_num_drafts)
        if self._random.random() < 0.5:
            return SampledTensors(tokens_BS, drafts)
        shape = (batch, slots, LARGEST.top_k)
        logprobs = torch.rand(shape, generator=self._generator)
        return SampledTensors(
            tokens_BS, drafts, self._integers(1000, *shape), logprobs, self._integers(9, batch, slots)
        )

    def _take(self) -> None:
        step, sampled = self._on_way.popleft()
        target, drafts = unpack(step.words(), step.shape)
        is_accepted_BS = sampled.token_ids_BS >= 0
        for name, found, expected in (
            ("tokens", target.token_ids_BS, sampled.token_ids_BS),
            ("drafts", None if drafts is None else drafts.token_ids_BS, sampled.draft_ids_BD),
            ("top-k ids", target.topk_ids_BSK, sampled.topk_ids_BSK),
            ("top-k log-probabilities", target.topk_logprobs_BSK, sampled.topk_logprobs_BSK),
            ("ranks", target.token_ranks_BS, sampled.token_ranks_BS),
        ):
            if (found is None) != (expected is None):
                self.wrong.append(f"{name}: {found} for {expected}")
            elif found is not None and expected is not None:
                keep = slice(None) if name in ("tokens", "drafts") else is_accepted_BS
                if not torch.equal(found[keep], expected[keep]):
                    self.wrong.append(f"{name}: {found.tolist()} for {expected.tolist()}")
        step.release()
