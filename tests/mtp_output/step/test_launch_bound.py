# SPDX-License-Identifier: Apache-2.0
"""The bound of a launch against a simulated scheduler, whose events FastDeploy's old formula does not survive."""

from __future__ import annotations

import os

import pytest

from tests.mtp_output.step.scheduler import Simulation
from vllm_ascend_ext.mtp_output.step.launch_bound import LaunchBound, LaunchBoundError

NUM_SEQUENCES = 100_000 if os.environ.get("VLLM_ASCEND_EXT_LONG_TESTS") == "1" else 1_000


def test_never_below_the_launch_and_exact_in_steady_decode() -> None:
    num_steady = num_exact = num_sequences_old_fails = 0
    for seed in range(NUM_SEQUENCES):
        simulation = Simulation(seed, num_speculative_tokens=seed % 6)
        simulation.run(24)  # raises where a launch is larger than its bound
        num_steady += simulation.num_steady
        num_exact += simulation.num_exact
        num_sequences_old_fails += simulation.old_failures > 0
    assert num_exact == num_steady > NUM_SEQUENCES
    assert num_sequences_old_fails > NUM_SEQUENCES // 20  # the old formula does not pass the same sequences


def test_an_inserted_request_has_more_tokens_in_its_second_launch_than_in_its_first() -> None:
    """Prefilled elsewhere, k = 3: 2 tokens, then 4. The old formula goes on from the first one's."""
    bound = LaunchBound(3)
    bound.insert("a")
    assert bound.check(2) == 4
    assert bound.bound == 4
    assert bound.check(4) == 4
    with pytest.raises(LaunchBoundError):
        bound.check(5)


def test_launch_above_the_bound_is_an_error() -> None:
    bound = LaunchBound(1)
    bound.insert("a")
    with pytest.raises(LaunchBoundError, match=r"launch 1 has 3 tokens, but 1 live requests of up to 2"):
        bound.check(3)


def test_prompt_then_decode_then_counts_that_are_late() -> None:
    bound = LaunchBound(2)
    bound.prefill("a", 30, is_last=False)
    assert bound.check(30) == 30
    assert bound.bound == 0  # the rest of the prompt is announced before its launch
    bound.prefill("a", 7, is_last=True)
    bound.insert("b")
    assert bound.check(10) == 10
    assert bound.bound == 6
    bound.counts_arrived(1, {"a": 0})  # of a launch before it decoded: says nothing about now
    assert bound.num_live == 2
    bound.counts_arrived(2, {"a": 0, "b": 1})
    assert bound.bound == 3
    bound.preempt("b")
    assert bound.bound == 0
    bound.resume("b")
    assert bound.bound == 3
    bound.reset()
    assert bound.bound == 0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_speculative_tokens=-1"):
        LaunchBound(-1)
    with pytest.raises(ValueError, match="a prefill of 0 tokens"):
        LaunchBound(1).prefill("a", 0, is_last=True)
