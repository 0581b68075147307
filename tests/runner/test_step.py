# SPDX-License-Identifier: Apache-2.0
"""Which rows a rank counts: every real row once, no padding, whatever the layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.rank_place import RankPlace
from vllm_ascend_ext.runner.step import StepFacts


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
        facts.num_routed_tokens(RankPlace(rank, tp_size), sequence_parallel=sequence_parallel)
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
        RankPlace(2, 2)


@pytest.mark.parametrize(("rows", "phase"), [(8, "decode"), (9, "prefill")])
def test_all_ranks_take_the_phase_of_the_largest_replica(rows: int, phase: str) -> None:
    assert StepFacts(1, 2, 3, max_num_rows=rows).phase(decode_rows=8) == phase
    assert StepFacts(1, rows, rows).phase(decode_rows=8) == phase
