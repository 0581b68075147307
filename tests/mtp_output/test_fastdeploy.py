# SPDX-License-Identifier: Apache-2.0
"""FastDeploy's operators, and each way in which its output queue failed (see the reference page's part C)."""

import itertools
import subprocess
import sys

import pytest
import torch

from tests.mtp_output.ring.rings import INSTANCE, open_pair
from vllm_ascend_ext.mtp_output import fastdeploy
from vllm_ascend_ext.mtp_output.errors import ChannelFullError
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.backend import python_backend
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

OPS = torch.ops.ascend_ext
INSTANCES = itertools.count(INSTANCE + 10_000)


@pytest.fixture
def channels():
    """make(max_num_seqs, k, top_k=0) → numbers of a sender and its receiver."""
    opened, rings = [], []

    def make(*size, num_frames=8):
        instance = next(INSTANCES)
        ring = RingSize.for_engine(*size, num_frames=num_frames)
        sender = OutputSender(instance, 0, ring, timeout_s=0.2)
        rings.append(sender.path)
        opened.append(fastdeploy.open_output_sender(sender))
        opened.append(fastdeploy.open_output_receiver(OutputReceiver(instance, 0, timeout_s=5)))
        return opened[-2:]

    yield make
    for channel in opened:
        fastdeploy.close_output_channel(channel)
    for path in rings:
        path.unlink(missing_ok=True)  # with frames that the test did not read


def tokens_of(batch, slots):
    return torch.arange(batch * slots, dtype=torch.int32).reshape(batch, slots)


def ids_of(batch):
    return [f"request-{row}" for row in range(batch)]


def get(receiver, batch, slots, flag=3):
    tokens, counts = torch.full((batch, slots), 7, dtype=torch.int64), torch.zeros(batch, dtype=torch.int32)
    return OPS.speculate_get_output(tokens, counts, receiver, 5.0, flag), tokens, counts


@pytest.mark.parametrize("batch", [1, 257, 512])
@pytest.mark.parametrize("k", [1, 6, 9])
def test_more_than_256_requests_and_more_than_5_draft_tokens(channels, batch, k):
    sender, receiver = channels(batch, k)
    tokens, counts = tokens_of(batch, k + 1), torch.arange(batch, dtype=torch.int32) % (k + 1) + 1
    assert OPS.speculate_save_output(tokens, counts, torch.zeros(batch), sender, 3, ids_of(batch)) == 0
    read, got, got_counts = get(receiver, batch, k + 1)
    assert read == batch and torch.equal(got_counts, counts)
    for row, number in enumerate(counts.tolist()):
        assert got[row, :number].tolist() == tokens[row, :number].tolist()
        assert (got[row, number:] == -1).all()
    frame = fastdeploy.received_frame(receiver)
    assert frame.step == 3 and list(frame.sections[0].request_ids) == ids_of(batch)


def test_a_full_queue_blocks_then_raises_and_drops_nothing(channels):
    sender, receiver = channels(4, 2, num_frames=3)
    arguments = (tokens_of(4, 3), torch.ones(4, dtype=torch.int32), torch.zeros(4), sender)
    for step in range(3):
        assert OPS.speculate_save_output(*arguments, step, ids_of(4)) == step
    for _ in range(2):
        with pytest.raises(ChannelFullError, match="3 frames behind"):
            OPS.speculate_save_output(*arguments, 3, ids_of(4))
    steps = []
    for step in range(6):
        assert get(receiver, 4, 3)[0] == 4
        steps.append(fastdeploy.received_frame(receiver).step)
        if step >= 1:  # the first is acknowledged when the second is read
            OPS.speculate_save_output(*arguments, step + 2, ids_of(4))
    assert steps == list(range(6))


def test_a_fully_preempted_batch_is_one_frame(channels):
    sender, receiver = channels(3, 2)
    counts = torch.full((3,), fastdeploy.PREEMPTED, dtype=torch.int32)
    OPS.speculate_save_output(tokens_of(3, 3), counts, torch.zeros(3), sender, 0, ids_of(3))
    read, tokens, got = get(receiver, 3, 3)
    assert read == 3 and torch.equal(got, counts) and (tokens == -1).all()
    frame = fastdeploy.received_frame(receiver)
    assert frame.sections[0].status_B.tolist() == [RequestStatus.PREEMPTED] * 3


def test_statuses_travel_in_the_counts(channels):
    sender, receiver = channels(5, 2)
    counts = torch.tensor([2, 0, -9, -3, 3], dtype=torch.int32)
    stop = torch.tensor([0, 0, 0, 0, 1])
    OPS.speculate_save_output(tokens_of(5, 3), counts, stop, sender, 0, ids_of(5))
    assert get(receiver, 5, 3)[2].tolist() == counts.tolist()
    section = fastdeploy.received_frame(receiver).sections[0]
    assert section.status_B.tolist() == [0, 4, 2, 3, 1]
    assert section.token_ids() == [[0, 1], [], [], [], [12, 13, 14]]
    with pytest.raises(ValueError, match="-9 .preempted. or -3"):
        OPS.speculate_save_output(tokens_of(1, 3), torch.tensor([-1]), torch.zeros(1), sender, 1, ["a"])


def test_a_stop_sequence_ends_at_its_own_row(channels):
    """FastDeploy counted stop sequences by a running index instead of row times slots."""
    sender, receiver = channels(3, 3)
    counts = torch.tensor([1, 4, 2], dtype=torch.int32)
    OPS.speculate_save_output(tokens_of(3, 4), counts, torch.tensor([1, 0, 1]), sender, 0, ids_of(3))
    get(receiver, 3, 4)
    section = fastdeploy.received_frame(receiver).sections[0]
    assert section.token_ids() == [[0], [4, 5, 6, 7], [8, 9]]
    finished, running = RequestStatus.FINISHED, RequestStatus.RUNNING
    assert section.status_B.tolist() == [finished, running, finished]


def test_expert_parallel_ranks_of_a_replica_send_one_frame(channels):
    sender, receiver = channels(2, 1)
    arguments = (tokens_of(2, 2), torch.ones(2, dtype=torch.int32), torch.zeros(2), sender, 0, ids_of(2))
    sent = [OPS.speculate_save_output(*arguments, rank_id, True) for rank_id in range(4)]
    assert sent == [0, -1, -1, -1]
    assert get(receiver, 2, 2)[0] == 2
    tokens, counts = torch.zeros(2, 2, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    assert OPS.speculate_get_output(tokens, counts, receiver, 0.05) == fastdeploy.NOTHING_READ


def topk_of(batch, slots, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 1000, (batch, slots, top_k), dtype=torch.int32, generator=generator)
    logprobs = torch.randn(batch, slots, top_k, generator=generator)
    return ids, logprobs, torch.randint(0, 99, (batch, slots), dtype=torch.int32, generator=generator)


def test_top_k_with_the_draft_of_a_finished_target_in_one_frame(channels):
    """FastDeploy paired target and draft by position, and lost the draft of a target that had finished."""
    batch, slots, top_k = 3, 4, 20
    sender, receiver = channels(batch, slots - 1, top_k)
    counts, draft_counts = torch.tensor([4, 1, 2]), torch.tensor([2, 3, 0])
    topk, draft_topk = topk_of(batch, slots, top_k, 1), topk_of(batch, slots, top_k, 2)
    OPS.speculate_save_output_with_topk(
        *(tokens_of(batch, slots), counts, torch.ones(batch), *topk, sender, 0, ids_of(batch)),
        draft_tokens=tokens_of(batch, slots) + 100,
        draft_num=draft_counts,
        draft_topk=list(draft_topk),
    )
    for flag, source, sent, numbers in (
        (fastdeploy.TARGET_FLAG, Source.TARGET, topk, counts),
        (fastdeploy.DRAFT_FLAG, Source.DRAFT, draft_topk, draft_counts),
    ):
        out = (
            torch.zeros(batch, slots, dtype=torch.int32),
            torch.zeros(batch, dtype=torch.int32),
            torch.zeros(batch, slots, top_k, dtype=torch.int32),
            torch.zeros(batch, slots, top_k),
            torch.zeros(batch, slots, dtype=torch.int32),
        )
        assert OPS.speculate_get_output_with_topk(*out, receiver, 5.0, flag) == batch
        assert torch.equal(out[1], numbers.int())
        for row, number in enumerate(numbers.tolist()):
            for got, value in zip(out[2:], sent, strict=True):
                assert torch.equal(got[row, :number], value[row, :number])
        assert fastdeploy.received_frame(receiver).section(source) is not None
    assert fastdeploy.received_frame(receiver).sections[0].status_B.tolist() == [RequestStatus.FINISHED] * 3


def test_tensors_that_are_too_small_are_refused_and_lose_nothing(channels):
    sender, receiver = channels(4, 2)
    OPS.speculate_save_output(
        tokens_of(4, 3), torch.ones(4, dtype=torch.int32), torch.zeros(4), sender, 0, ids_of(4)
    )
    with pytest.raises(ValueError, match="4 requests of 3 slots do not fit"):
        get(receiver, 3, 3)
    assert fastdeploy.received_frame(receiver).sections[0].token_ids() == [[0], [3], [6], [9]]


def test_what_would_be_dropped_in_part_is_refused(channels):
    sender, receiver = channels(2, 1, 3)
    sent = (tokens_of(2, 2), torch.ones(2, dtype=torch.int32), torch.zeros(2))
    rest = (*topk_of(2, 2, 3, 1), sender, 0, ids_of(2))
    for draft in (
        {"draft_tokens": sent[0]},
        {"draft_num": sent[1]},
        {"draft_topk": list(topk_of(2, 2, 3, 2))},
    ):
        with pytest.raises(ValueError, match="draft_tokens and draft_num come together"):
            OPS.speculate_save_output_with_topk(*sent, *rest, **draft)
    with pytest.raises(ValueError, match="draft_topk is ids, log-probabilities and ranks, not 2 tensors"):
        draft = {"draft_tokens": sent[0], "draft_num": sent[1], "draft_topk": list(topk_of(2, 2, 3, 2))[:2]}
        OPS.speculate_save_output_with_topk(*sent, *rest, **draft)
    with pytest.raises(ValueError, match="a rank of a tensor-parallel group is 0 or more, not -1"):
        OPS.speculate_save_output(*sent, sender, 0, ids_of(2), -1)
    assert OPS.speculate_save_output(*sent, sender, 0, ids_of(2)) == 0  # nothing was sent before


@pytest.mark.parametrize("sent_top_k", [0, 3])
def test_a_refusal_of_the_top_k_writes_nothing(channels, sent_top_k):
    sender, receiver = channels(2, 1, 3)
    sent = (tokens_of(2, 2), torch.ones(2, dtype=torch.int32), torch.zeros(2))
    if sent_top_k:
        OPS.speculate_save_output_with_topk(*sent, *topk_of(2, 2, 3, 1), sender, 0, ids_of(2))
    else:
        OPS.speculate_save_output(*sent, sender, 0, ids_of(2))
    tokens, counts = torch.full((2, 2), 7, dtype=torch.int32), torch.full((2,), 7, dtype=torch.int32)
    with pytest.raises(ValueError, match="does not fit" if sent_top_k else "no top-k"):
        OPS.speculate_get_output_with_topk(tokens, counts, *topk_of(2, 2, 2, 9), receiver, 5.0)
    assert (tokens == 7).all() and (counts == 7).all()


def test_a_channel_that_is_not_open():
    for flag in (fastdeploy.TARGET_FLAG, fastdeploy.DRAFT_FLAG):
        with pytest.raises(KeyError, match="987654 is no open receiver"):
            get(987_654, 1, 1, flag)
    with pytest.raises(KeyError, match="987654 is no open sender"):
        OPS.speculate_save_output(
            tokens_of(1, 1), torch.ones(1, dtype=torch.int32), torch.zeros(1), 987_654, 0, ["a"]
        )
    with pytest.raises(KeyError, match="987654 is no open channel"):
        fastdeploy.close_output_channel(987_654)


def test_a_number_is_of_one_end_until_it_is_closed(channels):
    sender, receiver = channels(2, 1)
    with pytest.raises(KeyError, match=f"{sender} is no open receiver"):
        get(sender, 2, 2)
    with pytest.raises(KeyError, match=f"no frame was read from channel {receiver}"):
        fastdeploy.received_frame(receiver)


def test_the_public_import_registers_the_operators():
    """`vllm_ascend_ext.ops` alone, without the channel's modules, without vLLM."""
    code = (
        "import sys, torch, vllm_ascend_ext.ops as ops\n"
        "for name in ('save_output', 'save_output_with_topk', 'get_output', 'get_output_with_topk'):\n"
        "    operator = getattr(torch.ops.ascend_ext, 'speculate_' + name).default\n"
        "    assert getattr(ops, 'speculate_' + name) is operator and 'speculate_' + name in ops.__all__\n"
        "heavy = {name for name in sys.modules if name == 'vllm' or '.mtp_output' in name}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_section_of_the_other_source_is_refused():
    with (
        open_pair(python_backend()) as (sender, _, section),
        pytest.raises(ValueError, match="section of the target"),
    ):
        sender.send(0, section(Source.DRAFT, 2))
