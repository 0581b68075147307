# SPDX-License-Identifier: Apache-2.0
"""Which rows a rank counts: every real row once, no padding, whatever the layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.config import EplbLoadConfig, ExtConfig
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.eplb_load.host_sum import HostAggregator
from vllm_ascend_ext.runner.features import RoutedModel, StepFeatures
from vllm_ascend_ext.runner.mixin import ExtModelRunner
from vllm_ascend_ext.runner.step import RankLayout, StepFacts

CPU = torch.device("cpu")


@given(
    num_tokens=st.integers(0, 100),
    padding=st.integers(0, 20),
    tp_size=st.integers(1, 8),
    sequence_parallel=st.booleans(),
)
def test_tp_ranks_together_count_every_token_once(
    num_tokens: int, padding: int, tp_size: int, sequence_parallel: bool
) -> None:
    facts = StepFacts(1, num_tokens, num_tokens + padding)
    counts = [
        facts.num_routed_tokens(RankLayout(rank, tp_size), sequence_parallel=sequence_parallel)
        for rank in range(tp_size)
    ]
    assert sum(counts) == num_tokens
    if sequence_parallel:
        chunk = -(-facts.num_tokens_padded // tp_size)
        rows = [min(max(num_tokens - rank * chunk, 0), chunk) for rank in range(tp_size)]
        assert counts == rows


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="step 7: 5 tokens do not fit into 4 padded rows"):
        StepFacts(7, 5, 4)


def test_rank_outside_its_group_is_refused() -> None:
    with pytest.raises(ValueError, match="tp 2/2"):
        RankLayout(2, 2)


@pytest.mark.parametrize(("rows", "phase"), [(8, "decode"), (9, "prefill")])
def test_all_ranks_take_the_phase_of_the_largest_replica(rows: int, phase: str) -> None:
    assert StepFacts(1, 2, 3, max_num_rows=rows).phase(decode_rows=8) == phase
    assert StepFacts(1, rows, rows).phase(decode_rows=8) == phase


class _Device:
    """In the place of a device's runner."""

    def _model_forward(self, input_ids: torch.Tensor) -> None: ...


class _Runner(ExtModelRunner, _Device):
    pass


@pytest.mark.parametrize(("num_tokens", "asked"), [(3, [4]), (0, [])], ids=["busy", "idle"])
def test_the_largest_replica_is_asked_for_where_a_phase_is_chosen(num_tokens: int, asked: list[int]) -> None:
    """A step with rows of requests asks before its forward begins; one that serves to keep step does not."""
    runner, features, seen = _Runner(), _features(EplbLoadConfig(enabled=True, phase="decode")), []

    def largest_replica(num_rows: int) -> int:
        seen.append(num_rows)
        return num_rows

    features.largest_replica = largest_replica
    runner.attach_features(features)
    runner._num_scheduled_tokens = num_tokens
    runner._model_forward(torch.zeros(4))
    assert seen == asked
    features.close()


def _features(load: EplbLoadConfig) -> StepFeatures:
    features = StepFeatures(ExtConfig(eplb_load=load), RankLayout(0, 1), CPU)
    features.decode_rows = 4
    target, draft = RoutedModel(("a", "b"), 4, 2, False), RoutedModel(("mtp",), 4, 2, False)
    features.record_load_of(target, draft, lambda recorders: HostAggregator(recorders, create_device("cpu"), None))
    return features


def test_everything_off_records_nothing() -> None:
    features = StepFeatures(ExtConfig(), RankLayout(0, 1), CPU)
    features.record_load_of(RoutedModel(("layer",), 4, 2, False), None, lambda recorders: pytest.fail("made"))
    features.begin_forward(StepFacts(1, 3, 3))
    features.end_step()
    assert features.read_load() == []


@pytest.mark.parametrize(("phase", "expected"), [("all", [9, 18]), ("prefill", [6, 12]), ("decode", [3, 6])])
def test_only_the_steps_of_the_phase_count(phase: str, expected: list[int]) -> None:
    features = _features(EplbLoadConfig(enabled=True, interval=2, phase=phase))
    for rows in (3, 6):  # a decode step, then a prefill step
        features.begin_forward(StepFacts(1, rows, rows))
        features.begin_draft(StepFacts(1, rows, rows))
        features.begin_draft(StepFacts(1, rows, rows))
        for load in features.loads:
            load.recorder.record(0, torch.zeros(rows, 2, dtype=torch.int64))
        features.end_step()
    assert [named.load.num_tokens for named in features.read_load()] == expected
    features.close()


def test_load_is_handed_over_and_read_whole_between_snapshots() -> None:
    features = _features(EplbLoadConfig(enabled=True, interval=3))
    for step in range(1, 11):
        features.begin_forward(StepFacts(step, 2, 4))
        for layer in range(2):
            features.loads[0].recorder.record(layer, torch.full((4, 2), step % 4))
        features.end_step()
    collected = features.collected
    assert collected is not None
    target, draft = features.read_load()
    assert target.load.load_LE.tolist() == [[8, 12, 12, 8]] * 2 and target.load.num_tokens == 20
    assert draft.load.load_LE.sum() == 0
    assert collected.num_tokens == [18, 0]  # steps 1 to 9; the tenth is pending
    features.reset_load()
    assert features.read_load()[0].load.load_LE.sum() == 0
    features.close()


@pytest.mark.parametrize("interval", [1, 4, 100])
def test_windows_are_exact_whatever_the_interval(interval: int) -> None:
    features = _features(EplbLoadConfig(enabled=True, interval=interval))
    collected = features.collected
    assert collected is not None
    windows = []
    for step in range(1, 41):
        features.begin_forward(StepFacts(step, 1, 1))
        features.loads[0].recorder.record(0, torch.full((1, 2), step % 4))
        if step % 10 in (2, 8):
            assert collected.mark() == step
        features.end_step()
        if step % 10 == 0:
            windows.append(collected.window(step - 8, step - 2)[0][0].tolist())
    expected = [
        [2 * sum(step % 4 == expert for step in range(end - 5, end + 1)) for expert in range(4)]
        for end in (8, 18, 28, 38)
    ]
    assert windows == expected
    assert collected.window_stats.num_windows == 4
    features.close()
