# SPDX-License-Identifier: Apache-2.0
"""Tokens of a real engine: every layout, with and without MTP, features on and off, against transformers."""

from __future__ import annotations

import pytest

from tests.support.reference import NUM_TOKENS, make_prompts, transformers_tokens
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

ALL_FEATURES = {"eplb_load": {"enabled": True}}
LAYOUTS = {
    "TP1": (Layout(), False, None),
    "TP2": (Layout(tp=2), False, None),
    "TP2+EP": (Layout(tp=2), True, None),
    "DP2+EP": (Layout(dp=2), True, (20, 12)),
    # one replica holds a single request, so that its steps have a single token (two with MTP)
    "DP2xTP2+EP": (Layout(tp=2, dp=2), True, (31, 1)),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)


@pytest.fixture(scope="module")
def expected(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> list[tuple[int, ...]]:
    return transformers_tokens(tiny_model, prompts, NUM_TOKENS)


@pytest.mark.parametrize("num_speculative_tokens", [0, 2], ids=["plain", "mtp"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_on_and_off_give_transformers_tokens(
    tiny_model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    layout: str,
    num_speculative_tokens: int,
) -> None:
    shape, expert_parallel, split = LAYOUTS[layout]
    for ascend_ext in (None, ALL_FEATURES):
        case = EngineCase(
            tiny_model,
            shape,
            expert_parallel=expert_parallel,
            num_speculative_tokens=num_speculative_tokens,
            ascend_ext=ascend_ext,
        )
        result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=180, split=split)
        assert result.token_ids == expected, f"{layout} with ascend_ext={ascend_ext}"
        if num_speculative_tokens:
            assert_drafts_were_verified(result)


def assert_drafts_were_verified(result: EngineResult) -> None:
    """Both outcomes occurred, so that equal tokens mean something."""
    for metrics in (rank.metrics for rank in result.ranks):
        if not metrics.get("vllm:generation_tokens"):
            continue
        drafted = metrics["vllm:spec_decode_num_draft_tokens"]
        accepted = metrics["vllm:spec_decode_num_accepted_tokens"]
        assert 0 < accepted < drafted
