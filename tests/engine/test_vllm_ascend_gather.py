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


@pytest.mark.parametrize("num_speculative_tokens", [0, 1], ids=["plain", "mtp"])
def test_modes_give_transformers_tokens(tiny_model: str, num_speculative_tokens: int) -> None:
    prompts = make_prompts(tiny_model)[:5]
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        expert_parallel=True,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext=gathering(),
        engine_args={"max_num_batched_tokens": 48, "max_num_seqs": 4, "enable_prefix_caching": False},
    )
    outcomes = run_modes(case, prompts, [4, 1])
    check_bytes(outcomes, transformers_tokens(tiny_model, prompts, NUM_TOKENS), {"max_len"})
