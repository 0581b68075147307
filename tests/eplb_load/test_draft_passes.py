# SPDX-License-Identifier: Apache-2.0
"""Passes of a draft model that one run, perhaps one graph, holds together."""

from __future__ import annotations

import pytest
import torch

from vllm_ascend_ext.eplb_load.draft_passes import DraftPasses
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder, LoadOverflowError

CPU = torch.device("cpu")
IDS_TK = torch.tensor([[0], [1], [2], [3]])


def test_each_pass_counts_its_own_rows_and_no_padding() -> None:
    """A run leaves the second layer out, as it does with further MTP layers."""
    recorder = ExpertLoadRecorder(2, 4, CPU)
    passes = DraftPasses(recorder, 3)
    for _ in range(2):
        passes.begin([3, 1, 1])
        for _ in range(3):
            passes.record(0, IDS_TK)
    load = recorder.read()
    assert load.load_LE.tolist() == [[6, 2, 2, 0], [0] * 4]
    assert (load.num_tokens, load.num_steps) == (10, 6)


def test_a_dummy_run_between_counts_nothing() -> None:
    recorder = ExpertLoadRecorder(1, 4, CPU)
    passes = DraftPasses(recorder, 2)
    for numbers in ([2, 1], [0, 0], [4, 2]):
        passes.begin(numbers)
        passes.record(0, IDS_TK)
        passes.record(0, IDS_TK)
    assert recorder.read().load_LE.tolist() == [[4, 3, 1, 1]]


def test_a_single_pass_has_no_later_ones() -> None:
    recorder = ExpertLoadRecorder(1, 4, CPU)
    passes = DraftPasses(recorder, 1)
    passes.begin([2])
    passes.record(0, IDS_TK)
    assert recorder.read().load_LE.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("numbers", [[1], [1, 1], [1, 2, 3], [2, -1, -1]])
def test_numbers_that_are_not_passes_are_refused(numbers: list[int]) -> None:
    recorder = ExpertLoadRecorder(1, 4, CPU)
    with pytest.raises(ValueError, match=r"not 3 passes|negative"):
        DraftPasses(recorder, 3).begin(numbers)
    assert recorder.num_routed_ids == 0


def test_a_run_that_could_overflow_changes_nothing() -> None:
    recorder = ExpertLoadRecorder(1, 4, CPU, max_routed_ids=5)
    passes = DraftPasses(recorder, 2)
    passes.begin([2, 1])
    with pytest.raises(LoadOverflowError):
        passes.begin([2, 1])
    assert recorder.num_routed_ids == 3
    with pytest.raises(ValueError, match="num_passes=0"):
        DraftPasses(recorder, 0)
