# SPDX-License-Identifier: Apache-2.0
"""Statuses and what counts, by request id: each failure of FastDeploy's output path that is not the channel's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.mtp_output.frames.section import RequestStatus, Section
from vllm_ascend_ext.mtp_output.step.device_copy import PackedShape, RecordCopier, SampledTensors, unpack
from vllm_ascend_ext.mtp_output.step.request_states import OutputMismatchError, StepEvents
from vllm_ascend_ext.mtp_output.step.sender import SampledBatch, StepSender

RUNNING, FINISHED, PREEMPTED, RECOVERED, SKIPPED = RequestStatus
STOP = 99


class Outlet:
    """Keeps what was sent, as plain values."""

    stats: Any = None

    def __init__(self) -> None:
        self.frames: list[tuple[int, dict[str, tuple[RequestStatus, list[int]]]]] = []
        self.drafts: list[Section | None] = []
        self.targets: list[Section] = []

    def send(self, step: int, target: Section, draft: Section | None = None, /) -> int:
        target = target._replace(packed_BW=target.packed_BW.copy())
        rows = zip(target.request_ids, target.status_B.tolist(), target.token_ids(), strict=True)
        self.frames.append((step, {name: (RequestStatus(status), tokens) for name, status, tokens in rows}))
        self.targets.append(target)
        self.drafts.append(draft and draft._replace(packed_BW=draft.packed_BW.copy()))
        return len(self.frames) - 1

    def close(self) -> None:
        pass


class StopsAt99:
    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.started: list[Any] = []

    def start(self, request_id: str, request: Any, /) -> None:
        assert request_id not in self.tokens
        self.tokens[request_id] = []
        self.started.append(request)

    def accept(self, request_id: str, token_ids: list[int]) -> tuple[int, bool]:
        is_finished = STOP in token_ids
        count = token_ids.index(STOP) + 1 if is_finished else len(token_ids)
        self.tokens[request_id].extend(token_ids[:count])
        return count, is_finished

    def num_tokens(self, request_id: str) -> int:
        return len(self.tokens[request_id])

    def forget(self, request_id: str) -> None:
        del self.tokens[request_id]


class Replica:
    """Steps given as request → accepted tokens (None: a part of its prompt)."""

    def __init__(self, num_speculative_tokens: int = 2, max_rows: int = 8, top_k: int = 0) -> None:
        self.outlet, self.slots = Outlet(), num_speculative_tokens + 1
        self.history = StopsAt99()
        self.sender = StepSender(self.outlet, self.history, top_k=top_k, max_rows=max_rows)
        largest = PackedShape(max_rows, self.slots, 4, num_speculative_tokens)
        self.copier = RecordCopier(create_device("cpu"), largest, num_buffers=1, deadline_s=1.0, vocab_size=100)
        self.step = 0

    def begin(self, **events: Any) -> tuple[int, StepEvents]:
        """A step is told of; `end` brings its outcome. Under asynchronous scheduling others begin in between."""
        self.step += 1
        kinds: dict[str, Any] = {"resumed": frozenset, "new": lambda ids: {name: self.step for name in ids}}
        told = StepEvents(**{name: kinds.get(name, lambda ids: ids)(ids) for name, ids in events.items()})
        self.sender.announce(self.step, told.finished)
        return self.step, told

    def go(self, tokens: dict[str, list[int] | None] | None, *, top_k: int = 0, **events: Any) -> None:
        self.end(self.begin(**events), tokens, top_k=top_k)

    def end(
        self, begun: tuple[int, StepEvents], tokens: dict[str, list[int] | None] | None, *, top_k: int = 0
    ) -> None:
        number, told = begun
        if tokens is None:
            self.sender.send(number, told, None)
            return
        # a row in its prompt samples something, too, which does not count
        rows = [[7] if ids is None else ids for ids in tokens.values()]
        padded = [ids + [-1] * (self.slots - len(ids)) for ids in rows]
        sampled_BS = torch.tensor(padded, dtype=torch.int32)
        topk: tuple[torch.Tensor, ...] = ()
        if top_k:
            ids_BSK = torch.arange(sampled_BS.numel() * top_k, dtype=torch.int32).view(*sampled_BS.shape, top_k)
            topk = (ids_BSK, -ids_BSK.float(), torch.ones_like(sampled_BS))
        drafts_BD = torch.full((len(tokens), self.slots - 1), 5, dtype=torch.int32) if self.slots > 1 else None
        step = self.copier.launch(SampledTensors(sampled_BS, drafts_BD, *topk))
        words_N = step.words()
        unpack(words_N, step.shape)
        accepted = [ids or [] for ids in tokens.values()]
        self.sender.send(number, told, SampledBatch(list(tokens), accepted, step.shape, words_N.numpy(), 0.0))
        step.release()

    @property
    def frames(self) -> list[dict[str, tuple[RequestStatus, list[int]]]]:
        return [rows for _, rows in self.outlet.frames]


def test_tokens_after_a_stop_and_steps_after_the_end_do_not_count() -> None:
    replica = Replica()
    replica.go({"a": [1, 2], "b": None}, new=("a", "b"))
    replica.go({"a": [3, STOP, 4], "b": [6]})
    replica.go({"b": [8], "a": [5, 5]})  # asynchronous scheduling had launched `a` once more; rows have moved
    replica.go({"b": [9]}, finished=("a",))
    assert replica.frames == [
        {"a": (RUNNING, [1, 2]), "b": (SKIPPED, [])},
        {"a": (FINISHED, [3, STOP]), "b": (RUNNING, [6])},
        {"b": (RUNNING, [8])},
        {"b": (RUNNING, [9])},
    ]


def test_a_batch_that_is_preempted_as_a_whole_is_told() -> None:
    """FastDeploy #7633: it sent nothing."""
    replica = Replica()
    replica.go({"a": [1], "b": [2]}, new=("a", "b"))
    replica.go(None, preempted=("a", "b"))
    replica.go({"b": [3, 4], "a": None}, resumed=("a", "b"), num_output_tokens={"a": 1, "b": 1})
    assert replica.frames[1:] == [
        {"a": (PREEMPTED, []), "b": (PREEMPTED, [])},
        {"b": (RECOVERED, [3, 4]), "a": (RECOVERED, [])},
    ]
    assert [step for step, _ in replica.outlet.frames] == [1, 2, 3]


def test_who_comes_back_without_having_been_told_preempted_is_told_so_first() -> None:
    """`reset_prefix_cache(reset_running_requests=True)`: vLLM names in no step whom it has preempted."""
    replica = Replica()
    replica.go({"a": [1], "b": [2]}, new=("a", "b"))
    replica.go({"b": [3], "a": None}, resumed=("a", "b"), num_output_tokens={"a": 1, "b": 1})
    replica.go({"b": [4], "a": [5]})
    replica.go({"b": [6]}, preempted=("a",))
    replica.go({"b": [7], "a": [8]}, resumed=("a",))
    assert replica.frames[1:] == [
        {"a": (PREEMPTED, []), "b": (PREEMPTED, [])},
        {"b": (RECOVERED, [3]), "a": (RECOVERED, [])},
        {"b": (RUNNING, [4]), "a": (RUNNING, [5])},
        {"a": (PREEMPTED, []), "b": (RUNNING, [6])},
        {"b": (RUNNING, [7]), "a": (RECOVERED, [8])},
    ]
    assert [step for step, _ in replica.outlet.frames] == [1, 2, 2, 3, 4, 5]


def test_an_abort_ends_the_request_and_drops_what_is_on_its_way() -> None:
    replica = Replica()
    replica.go({"a": [1], "b": [2]}, new=("a", "b"))
    running, after = replica.begin(), replica.begin(finished=("a",))
    replica.end(running, {"a": [3], "b": [4]})
    replica.end(after, None)
    replica.go(None, finished=("unknown",))  # was aborted before it ever ran
    assert replica.frames[1:] == [{"b": (RUNNING, [4])}, {"a": (FINISHED, [])}]


def test_a_request_that_a_scheduler_sends_back_ends_after_what_is_on_its_way() -> None:
    """vllm-ascend's recompute scheduler: the engine still takes the tokens of the step under way."""
    replica = Replica()
    replica.go({"a": [1], "b": [2]}, new=("a", "b"))
    running, after = replica.begin(), replica.begin(sent_back=("a",))
    replica.end(running, {"a": [3], "b": [4]})
    replica.end(after, {"b": [5]})
    assert replica.frames[1:] == [
        {"a": (RUNNING, [3]), "b": (RUNNING, [4])},
        {"a": (FINISHED, []), "b": (RUNNING, [5])},
    ]


def test_an_id_that_is_used_again_is_told_in_two_frames() -> None:
    replica = Replica()
    replica.go({"a": [1]}, new=("a",))
    replica.go({"a": [2]}, new=("a",), finished=("a",))
    assert replica.frames[1:] == [{"a": (FINISHED, [])}, {"a": (RUNNING, [2])}]


def test_an_id_that_is_used_again_before_its_steps_have_ended() -> None:
    """Asynchronous scheduling: the outcome of every step comes one step later."""
    replica = Replica()
    first = replica.begin(new=("a",))
    second = replica.begin(new=("a",), finished=("a",))
    replica.end(first, {"a": [1]})
    third = replica.begin(new=("a",), finished=("a",))
    replica.end(second, {"a": [2]})
    replica.end(third, {"a": [3]})
    assert replica.frames == [{"a": (FINISHED, [])}, {"a": (FINISHED, [])}, {"a": (RUNNING, [3])}]
    assert replica.history.started == [1, 2, 3]


@pytest.mark.parametrize("last", [STOP, 5], ids=["after its stop", "while it runs"])
def test_a_session_with_streaming_input_is_an_error(last: int) -> None:
    """vLLM schedules it as new once more, and has never said that it finished."""
    replica = Replica()
    replica.go({"a": [1, last]}, new=("a",))
    with pytest.raises(OutputMismatchError, match=r"'a' begins again and has not ended: .* streaming input"):
        replica.go({"a": [2]}, new=("a",))
    assert len(replica.frames) == 1


def test_more_ends_than_a_frame_has_rows() -> None:
    replica = Replica(max_rows=8)
    names = [str(i) for i in range(20)]
    for begin in range(0, 20, 8):
        group = names[begin : begin + 8]
        replica.go({name: [1] for name in group}, new=tuple(group))
    replica.go({"x": [1]}, new=("x",), finished=tuple(names))
    told = [name for rows in replica.frames[3:] for name in rows]
    assert told == [*names, "x"]
    assert max(len(rows) for rows in replica.frames) == 8


@pytest.mark.parametrize("num_requests", [257, 512])
def test_more_than_256_requests_and_more_than_5_drafts(num_requests: int) -> None:
    """FastDeploy's plain message holds 256 requests and 6 tokens each."""
    replica = Replica(num_speculative_tokens=8, max_rows=num_requests)
    names = tuple(f"request {i}" for i in range(num_requests))
    tokens = {name: list(range(i % 9 + 1)) for i, name in enumerate(names)}
    replica.go(dict(tokens), new=names)
    assert replica.frames == [{name: (RUNNING, ids) for name, ids in tokens.items()}]


def test_draft_section_is_that_of_the_same_requests() -> None:
    """FastDeploy pairs target and draft by position, and loses the draft of a target that has finished."""
    replica = Replica()
    replica.go({"a": [1]}, new=("a",))
    replica.go({"b": [2, 3, 4], "a": [STOP]}, new=("b",))
    target, draft = replica.outlet.targets[1], replica.outlet.drafts[1]
    assert draft is not None and draft.request_ids == target.request_ids == ("b", "a")
    assert draft.num_accepted_B.tolist() == [2, 2] and draft.token_ids() == [[5, 5], [5, 5]]
    assert draft.status_B.tolist() == target.status_B.tolist() == [RUNNING, FINISHED]
    acceptance = replica.sender.stats.acceptance
    assert acceptance.num_drafts == [3, 3] and acceptance.num_accepted == [1, 1] and acceptance.num_tokens == 5


@pytest.mark.parametrize(("top_k", "columns"), [(0, 0), (1, 2), (3, 4), (20, 4)])
def test_a_frame_has_no_more_log_probabilities_than_it_may(top_k: int, columns: int) -> None:
    replica = Replica(top_k=top_k)
    replica.go({"a": [1, 2], "b": [3]}, new=("a", "b"), top_k=4)
    (target,) = replica.outlet.targets
    assert target.top_k == columns and target.token_ids() == [[1, 2], [3]]
    if columns:
        expected_SK = np.arange(12).reshape(3, 4)[:2, :columns]
        assert target.topk_ids_BSK is not None and target.topk_logprobs_BSK is not None
        np.testing.assert_array_equal(target.topk_ids_BSK[0, :2], expected_SK)
        np.testing.assert_array_equal(target.topk_logprobs_BSK[0, :2], -expected_SK)


def test_tokens_that_the_engine_takes_back_are_an_error() -> None:
    replica = Replica()
    replica.go({"a": [1, 2]}, new=("a",))
    with pytest.raises(OutputMismatchError, match=r"'a' has 1 output tokens in the engine and 2 in the frames"):
        replica.go({"a": [2]}, resumed=("a",), num_output_tokens={"a": 1})


def test_long_ids_are_shortened_and_stay_apart() -> None:
    """A client's id of any length must not outgrow the ring."""
    replica = Replica()
    names = ("x" * 64, "y" * 5000, "y" * 5000 + "z", "é" * 65)
    replica.go({name: [1] for name in names}, new=names)
    ids = replica.outlet.targets[0].request_ids
    assert ids[0] == names[0] and len(set(ids)) == 4
    assert all(len(request_id.encode()) <= 256 for request_id in ids)


def test_tokens_of_an_unknown_request_are_an_error() -> None:
    with pytest.raises(OutputMismatchError, match="'a', which nobody has started"):
        Replica().go({"a": [1]})
