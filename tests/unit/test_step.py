# SPDX-License-Identifier: Apache-2.0
"""Which rows a rank counts: every real row once, no padding, whatever the layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.runner import features as features_module
from vllm_ascend_ext.runner.features import LoadOfModel, RoutedModel, StepFeatures
from vllm_ascend_ext.runner.step import RankLayout, StepFacts


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


def test_everything_off_records_nothing() -> None:
    features = StepFeatures(ExtConfig(), RankLayout(0, 1), torch.device("cpu"))
    features.record_load_of(RoutedModel(("layer",), 4, 2, False), None)
    features.begin_forward(StepFacts(1, 3, 3))
    assert features.read_load() == []


def test_counters_drain_before_they_could_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run drains the device's counters into the host's and loses nothing."""
    monkeypatch.setattr(features_module, "_DRAIN_SLOTS", 20)
    load = LoadOfModel(RoutedModel(("a", "b"), 4, 2, False), torch.device("cpu"))
    for step in range(10):
        load.begin(StepFacts(step, 3, 3), RankLayout(0, 1))
        for layer in range(2):
            load.recorder.record(layer, torch.tensor([[0, 1], [2, 3], [0, step % 4]]))
        assert int(load.recorder.read().load_LE.sum(1).max()) <= 20
    named = load.read()
    assert named.load.num_tokens == 30
    assert named.load.load_LE.sum(1).tolist() == [60, 60]
    load.reset()
    assert load.read().load.load_LE.sum() == 0
