# SPDX-License-Identifier: Apache-2.0
"""Which steps a collection counts, what it hands over, and what of it is in a window."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.eplb_load.collection import ExpertLoadCollection, RoutedModel
from vllm_ascend_ext.eplb_load.host_sum import HostSum
from vllm_ascend_ext.eplb_load.snapshots import Snapshots
from vllm_ascend_ext.runner.mixin import ExtModelRunner
from vllm_ascend_ext.runner.step import StepFacts

CPU = torch.device("cpu")


class _Device:
    """In the place of a device's runner."""

    def _model_forward(self, input_ids: torch.Tensor) -> None: ...


class _Runner(ExtModelRunner, _Device):
    pass


@pytest.mark.parametrize(("num_tokens", "asked"), [(3, [4]), (0, [])], ids=["busy", "idle"])
def test_the_largest_replica_is_asked_for_where_a_phase_is_chosen(num_tokens: int, asked: list[int]) -> None:
    """A step with rows of requests asks before its forward begins; one that serves to keep step does not."""
    runner, seen = _Runner(), []

    def largest_replica(num_rows: int) -> int:
        seen.append(num_rows)
        return num_rows

    collection = _collection(EplbLoadConfig(enabled=True, phase="decode"), largest_replica)
    runner.add_observer(collection)
    runner._num_scheduled_tokens = num_tokens
    runner._model_forward(torch.zeros(4))
    assert seen == asked
    collection.close()


def _collection(load: EplbLoadConfig, largest_replica: Callable[[int], int] | None = None) -> ExpertLoadCollection:
    return ExpertLoadCollection(
        load,
        lambda facts, model: facts.num_tokens,
        CPU,
        RoutedModel(("a", "b"), 4, 2, False),
        RoutedModel(("mtp",), 4, 2, False),
        lambda recorders: Snapshots(recorders, create_device("cpu"), partial(HostSum, None)),
        decode_rows=4,
        largest_replica=largest_replica,
    )


def test_a_runner_without_observers_counts_no_steps() -> None:
    runner = _Runner()
    runner._model_forward(torch.zeros(4))
    runner._end_step()
    assert runner._step == 0


@pytest.mark.parametrize(("phase", "expected"), [("all", [9, 18]), ("prefill", [6, 12]), ("decode", [3, 6])])
def test_only_the_steps_of_the_phase_count(phase: str, expected: list[int]) -> None:
    collection = _collection(EplbLoadConfig(enabled=True, interval=2, phase=phase))
    for rows in (3, 6):  # a decode step, then a prefill step
        collection.begin_forward(StepFacts(1, rows, rows))
        collection.begin_draft(StepFacts(1, rows, rows))
        collection.begin_draft(StepFacts(1, rows, rows))
        for load in collection.loads:
            load.recorder.record(0, torch.zeros(rows, 2, dtype=torch.int64))
        collection.end_step()
    assert [named.load.num_tokens for named in collection.read()] == expected
    collection.close()


def test_load_is_handed_over_and_read_whole_between_snapshots() -> None:
    collection = _collection(EplbLoadConfig(enabled=True, interval=3))
    for step in range(1, 11):
        collection.begin_forward(StepFacts(step, 2, 4))
        for layer in range(2):
            collection.loads[0].recorder.record(layer, torch.full((4, 2), step % 4))
        collection.end_step()
    collected = collection.windows
    target, draft = collection.read()
    assert target.load.load_LE.tolist() == [[8, 12, 12, 8]] * 2 and target.load.num_tokens == 20
    assert draft.load.load_LE.sum() == 0
    assert collected.num_tokens == [18, 0]  # steps 1 to 9; the tenth is pending
    collection.reset()
    assert collection.read()[0].load.load_LE.sum() == 0
    collection.close()


@pytest.mark.parametrize("interval", [1, 4, 100])
def test_windows_are_exact_whatever_the_interval(interval: int) -> None:
    collection = _collection(EplbLoadConfig(enabled=True, interval=interval))
    collected = collection.windows
    windows = []
    for step in range(1, 41):
        collection.begin_forward(StepFacts(step, 1, 1))
        collection.loads[0].recorder.record(0, torch.full((1, 2), step % 4))
        if step % 10 in (2, 8):
            assert collected.mark() == step
        collection.end_step()
        if step % 10 == 0:
            windows.append(collected.window(step - 8, step - 2)[0][0].tolist())
    expected = [
        [2 * sum(step % 4 == expert for step in range(end - 5, end + 1)) for expert in range(4)]
        for end in (8, 18, 28, 38)
    ]
    assert windows == expected
    assert collected.window_stats.num_windows == 4
    collection.close()
