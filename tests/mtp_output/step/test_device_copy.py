# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest
import torch

from tests.mtp_output.step.packed_run import LARGEST, PackedRun
from vllm_ascend_ext.device import Capabilities, create_device
from vllm_ascend_ext.device.cpu import CpuDevice
from vllm_ascend_ext.mtp_output.step.device_copy import (
    PackedShape,
    RecordCopier,
    SampledTensors,
    draft_rows,
    unpack,
)


@pytest.mark.parametrize("seed", range(10))
def test_every_step_arrives_in_one_copy(seed: int) -> None:
    run = PackedRun(create_device("cpu"), seed, num_buffers=1 + seed % 3)
    run.go(40)
    assert run.wrong == []
    assert run.copier.stats.num_copies == 40


def test_drafts_of_different_lengths_have_a_row_each() -> None:
    drafts = draft_rows(torch.tensor([5, 6, 7]), [2, 0, 1], torch.tensor([2, 2, 3], dtype=torch.int32))
    assert drafts.tolist() == [[5, 6], [-1, -1], [7, -1]]
    assert drafts.dtype == torch.int32
    assert draft_rows(torch.tensor([5, 6]), [1, 1], torch.tensor([1, 2])).tolist() == [[5], [6]]


def test_what_does_not_fit_is_refused() -> None:
    copier = RecordCopier(
        create_device("cpu"), PackedShape(2, 2, 0, 1), num_buffers=1, deadline_s=1.0, vocab_size=9
    )
    with pytest.raises(ValueError, match="num_requests=3"):
        copier.launch(SampledTensors(torch.zeros(3, 1, dtype=torch.int32)))
    step = copier.launch(SampledTensors(torch.zeros(2, 1, dtype=torch.int32)))
    with pytest.raises(RuntimeError, match="every buffer is on its way"):
        copier.launch(SampledTensors(torch.zeros(2, 1, dtype=torch.int32)))
    step.release()
    step.release()
    assert len(copier.free) == 1
    with pytest.raises(RuntimeError, match="was released"):
        step.words()
    with pytest.raises(ValueError, match="0 buffers"):
        RecordCopier(create_device("cpu"), LARGEST, num_buffers=0, deadline_s=1.0, vocab_size=9)


def test_an_id_outside_of_the_vocabulary_does_not_count() -> None:
    """As `RejectionSampler.parse_output` has it; without drafts vLLM does not look."""
    copier = RecordCopier(
        create_device("cpu"), PackedShape(3, 3, 0, 0), num_buffers=2, deadline_s=1.0, vocab_size=9
    )
    for ids_BS, counts in (([[8, 9, -1], [0, 1, 8], [9, -1, -1]], [1, 3, 0]), ([[9]], [1])):
        step = copier.launch(SampledTensors(torch.tensor(ids_BS, dtype=torch.int32)))
        target, _ = unpack(step.words(), step.shape)
        assert target.num_accepted_B.tolist() == counts
        assert [row[row >= 0].tolist() for row in target.token_ids_BS] == [
            ids[:count] for ids, count in zip(ids_BS, counts, strict=True)
        ]


class SideStreams(CpuDevice):
    """Is a CPU that packs as accelerators do: by the operator, with a copy on a side stream."""

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, side_streams=True)


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("num_slots", [1, 2, 4])
@pytest.mark.parametrize("num_requests", [1, 5, 33])
def test_a_host_packs_the_words_of_the_operator(num_requests: int, num_slots: int, top_k: int) -> None:
    seed = torch.Generator().manual_seed(num_requests)
    shape = (num_requests, num_slots)
    tokens_BS = torch.randint(-1, 12, shape, generator=seed, dtype=torch.int32)  # also beyond the vocabulary
    drafts_BD = torch.randint(-1, 12, (num_requests, num_slots), generator=seed, dtype=torch.int32)
    topk: list[torch.Tensor] = []
    if top_k:
        ids = torch.randint(0, 99, (*shape, top_k), generator=seed, dtype=torch.int32)
        topk = [ids, -torch.rand(ids.shape, generator=seed), ids[:, :, 0] + 1]
    words = []
    for device in (create_device("cpu"), SideStreams()):
        largest = PackedShape(40, 4, 3, 4)
        copier = RecordCopier(device, largest, num_buffers=1, deadline_s=1.0, vocab_size=9)
        for buffer in copier.free:
            buffer.words_N_cpu.fill_(77)  # what a step before has left
        words.append(copier.launch(SampledTensors(tokens_BS, drafts_BD, *topk)).words())
    assert torch.equal(*words) and words[0].numel() == PackedShape(*shape, top_k, num_slots).words
