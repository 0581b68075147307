# SPDX-License-Identifier: Apache-2.0
"""DP gather of engines on vllm-ascend, on the emulator with its race checker: every mode gives the tokens."""

from __future__ import annotations

import pytest

from tests.engine.reference import make_prompts, transformers_tokens
from tests.engine.test_dp_gather import NUM_TOKENS, check_bytes, gathering, run_modes
from vllm_ascend_ext.integration.engine import EngineCase
from vllm_ascend_ext.integration.ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]


def test_modes_give_transformers_tokens(tiny_model: str) -> None:
    """DP2 and EP, prefill in chunks, MTP. Without asynchronous scheduling, whose own races are known."""
    prompts = make_prompts(tiny_model)[:5]
    settings = {"enable_prefix_caching": False, "async_scheduling": False}
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        expert_parallel=True,
        num_speculative_tokens=1,
        ascend_ext=gathering(),
        engine_args={"max_num_batched_tokens": 48, "max_num_seqs": 4, **settings},
    )
    outcomes = run_modes(case, prompts, [4, 1])
    check_bytes(outcomes, transformers_tokens(tiny_model, prompts, NUM_TOKENS), {"max_len"})
