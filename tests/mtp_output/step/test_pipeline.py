# SPDX-License-Identifier: Apache-2.0
"""A step whose frame cannot be sent, or not yet: every step is judged once, errors stay, nobody hangs."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from tests.mtp_output.step.test_sender import Outlet, StopsAt99
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.mtp_output.errors import ReaderGoneError
from vllm_ascend_ext.mtp_output.frames.section import Section
from vllm_ascend_ext.mtp_output.step.device_copy import PackedShape, RecordCopier, SampledTensors
from vllm_ascend_ext.mtp_output.step.launch_bound import LaunchBound
from vllm_ascend_ext.mtp_output.step.pipeline import ReplicaPeers, StepPipeline, StepResult
from vllm_ascend_ext.mtp_output.step.request_states import StepEvents
from vllm_ascend_ext.mtp_output.step.sender import StepSender

LARGEST = PackedShape(4, 3, 0, 2)


class FailingOutlet(Outlet):
    """Keeps frames as `Outlet`; with an error it raises it, with a gate it waits there first."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_waiting = threading.Event()
        self.log = log

    def send(self, step: int, target: Section, draft: Section | None = None, /) -> int:
        self.is_waiting.set()
        assert self.gate.wait(30)
        self.log.append("send")
        if self.error is not None:
            raise self.error
        return super().send(step, target, draft)


class Peers:
    """Notes when a broadcast was, in place of a Gloo group."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def broadcast_(self, x: torch.Tensor, source: int) -> None:
        self.log.append(f"broadcast of {source}")
        if source:  # of another rank
            x.zero_()


class Engine:
    """The rank that sends, of a replica with request `a`."""

    def __init__(self, *, always_share: bool = False) -> None:
        self.log: list[str] = []
        self.outlet, self.history = FailingOutlet(self.log), StopsAt99()
        peers: Any = Peers(self.log)
        self.outputs = StepPipeline(
            copier=RecordCopier(create_device("cpu"), LARGEST, num_buffers=2, deadline_s=5.0, vocab_size=9),
            sender=StepSender(self.outlet, self.history, top_k=0, max_rows=4),
            peers=ReplicaPeers(peers, always_share),
            launches=LaunchBound(2),
            num_buffers=2,
            is_async=True,
        )

    def step(self, tokens: list[int], **events: Any) -> StepResult:
        self.outputs.begin_step(StepEvents(**events))
        sampled = SampledTensors(torch.tensor([tokens], dtype=torch.int32))
        step = self.outputs.sampled(sampled.shape, lambda: sampled, ["a"], (), needs_history=True)
        assert step is not None
        return step


@pytest.mark.parametrize(
    ("error", "afterwards"),
    [
        (ReaderGoneError("reader 7 is dead"), (ReaderGoneError, "reader 7 is dead")),
        (KeyboardInterrupt(), (RuntimeError, "output of step 1 was interrupted by KeyboardInterrupt")),
    ],
    ids=["no reader", "a signal"],
)
def test_a_frame_that_cannot_be_sent_ends_all_that_follows(
    error: BaseException, afterwards: tuple[type[Exception], str]
) -> None:
    engine = Engine()
    step = engine.step([1, 2], new={"a": None})
    engine.outlet.error = error
    with pytest.raises(type(error)):
        engine.outputs.resolve(step)
    engine.outlet.error = None
    for again in (lambda: engine.outputs.resolve(step), lambda: engine.outputs.begin_step(StepEvents())):
        with pytest.raises(afterwards[0], match=afterwards[1]):
            again()
    assert engine.history.tokens == {"a": [1, 2]} and engine.log == ["send"]  # judged once
    assert engine.outlet.frames == []


def test_so_does_the_frame_of_a_step_without_tokens() -> None:
    engine = Engine()
    engine.outputs.resolve(engine.step([1], new={"a": None}))
    engine.outlet.error = ReaderGoneError("reader 7 is dead")
    engine.outputs.begin_step(StepEvents(preempted=("a",)))
    with pytest.raises(ReaderGoneError):
        engine.outputs.nothing_sampled()
    with pytest.raises(ReaderGoneError):
        engine.outputs.begin_step(StepEvents())


def test_peers_get_the_tokens_while_a_reader_holds_up_the_frame() -> None:
    """Otherwise their deadline passes with the sender's, and may name the sender instead of the reader."""
    engine = Engine()
    step = engine.step([1, 2, -1], new={"a": None})
    engine.outlet.gate.clear()
    engine_output = threading.Thread(target=engine.outputs.resolve, args=(step,), daemon=True)
    engine_output.start()
    assert engine.outlet.is_waiting.wait(10)
    found: list[Any] = []
    model = threading.Thread(target=lambda: found.append(engine.outputs.history(step).tolist()), daemon=True)
    model.start()
    model.join(10)
    assert found == [[[1, 2, -1]]] and engine.log == ["broadcast of 0"]
    engine.outlet.gate.set()
    engine_output.join(10)
    assert step.is_resolved and step.token_ids == [[1, 2]]
    assert [rows["a"][1] for _, rows in engine.outlet.frames] == [[1, 2]]


def test_steps_are_shared_before_any_is_sent() -> None:
    engine = Engine(always_share=True)
    first, second, third = engine.step([1], new={"a": None}), engine.step([2]), None
    engine.outputs.resolve(second)
    assert engine.log == ["broadcast of 0", "broadcast of 0", "send", "send"]
    second, third = engine.step([3]), engine.step([4])
    engine.outputs.resolve(second)
    assert third.target is None  # nobody has waited for a step that was not asked for
    assert first.is_resolved and engine.history.tokens == {"a": [1, 2, 3]}


class Mark:
    """Notes when it was used, in place of a `SamplingMark`."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def record(self) -> None:
        self.log.append("record")

    def wait(self) -> None:
        self.log.append("wait")


def test_a_rank_that_is_sent_the_tokens_waits_for_its_own_sampling() -> None:
    """vLLM then writes to the memory from which the step's inputs were copied to this rank's device."""
    log: list[str] = []
    peers: Any = Peers(log)
    mark: Any = Mark(log)
    outputs = StepPipeline(
        copier=None,
        sender=None,
        peers=ReplicaPeers(peers, True, sender=1),
        launches=LaunchBound(0),
        num_buffers=2,
        is_async=False,
        sampling_mark=mark,
    )
    outputs.begin_step(StepEvents())
    step = outputs.sampled(PackedShape(1, 1, 0, 0), lambda: pytest.fail("packs"), ["a"], (), needs_history=False)
    assert step is not None and log == ["record"]
    outputs.resolve(step)
    assert log == ["record", "broadcast of 1", "wait"]
