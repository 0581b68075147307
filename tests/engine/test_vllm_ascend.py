# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's own platform, worker and model runner on an NPU, and ours over them, against transformers.

On the emulator only: its attention operator computes float32, which an NPU's does not. The race checker watches
every engine (emulator/pytest_plugin.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from emulator.findings import Findings
from tests.engine.test_tokens import assert_drafts_were_verified
from tests.support.engines.upstream_races import CORRECTED_COUNTS, others
from tests.support.long_tables import long_table
from tests.support.reference import QWEN3_MOE, make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3": ("Qwen3Config", {}),
    "Qwen3-MoE": ("Qwen3MoeConfig", QWEN3_MOE),
}
CASES = {
    "Qwen3 TP1": ("Qwen3", Layout(), False),
    "Qwen3 TP2": ("Qwen3", Layout(tp=2), False),
    "Qwen3-MoE TP1": ("Qwen3-MoE", Layout(), False),
    "Qwen3-MoE TP2": ("Qwen3-MoE", Layout(tp=2), False),
    "Qwen3-MoE TP2+EP": ("Qwen3-MoE", Layout(tp=2), True),
}
RUNNERS = ("theirs", "ours")
# each model and layout with one runner, each runner with several of them; the nightly command has the rest
SHORT = {("Qwen3 TP1", "theirs"), ("Qwen3 TP2", "ours"), ("Qwen3-MoE TP1", "ours"), ("Qwen3-MoE TP2", "theirs")}
SHORT |= {("Qwen3-MoE TP2+EP", "ours")}
# small steps, so that prompts are prefilled in chunks and requests join and leave the batch
ENGINE = {"max_num_batched_tokens": 64, "max_num_seqs": 6}
DEADLINE_S = 240


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:8]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    """Checkpoints: two with random weights of realistic scale, and the trained DeepSeek-V3 with an MTP layer."""
    return {"DeepSeek": tiny_model} | {
        name: write_model(tmp_path_factory.mktemp(name), tiny_model, config, **settings)
        for name, (config, settings) in MODELS.items()
    }


@pytest.fixture(scope="module")
def expected(models: dict[str, str], prompts: list[list[int]]) -> dict[str, list[tuple[int, ...]]]:
    tokens = {name: transformers_tokens(model, prompts, NUM_TOKENS) for name, model in models.items()}
    assert all(len(set(continuations)) > 4 for continuations in tokens.values())  # not degenerate
    return tokens


@pytest.mark.parametrize(
    ("name", "runner"),
    [
        pytest.param(name, runner, marks=[long_table] * ((name, runner) not in SHORT))
        for name in CASES
        for runner in RUNNERS
    ],
)
def test_tokens_equal_transformers(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    name: str,
    runner: str,
) -> None:
    model, layout, expert_parallel = CASES[name]
    case = EngineCase(
        models[model],
        layout,
        expert_parallel=expert_parallel,
        ascend_ext={} if runner == "ours" else None,
        engine_args=ENGINE,
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert result.token_ids == expected[model]
    assert (result.ranks[0].report is not None) == (runner == "ours")


@pytest.mark.parametrize(
    ("layout", "async_scheduling"),
    [
        (Layout(), False),
        pytest.param(Layout(), True, marks=long_table),
        pytest.param(Layout(tp=2), False, marks=long_table),
        (Layout(tp=2), True),
    ],
    ids=["TP1-sync", "TP1-async", "TP2+EP-sync", "TP2+EP-async"],
)
def test_deepseek_with_mtp(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    race_reports: Findings,
    layout: Layout,
    async_scheduling: bool,
) -> None:
    """Latent attention (vllm-ascend prefills in bfloat16), grouped routing, drafts accepted and rejected."""
    case = EngineCase(
        models["DeepSeek"],
        layout,
        expert_parallel=layout.tp > 1,
        num_speculative_tokens=2,
        ascend_ext={},
        engine_args=ENGINE | {"async_scheduling": async_scheduling},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert result.token_ids == expected["DeepSeek"]
    assert_drafts_were_verified(result)
    assert others(race_reports.take(), [CORRECTED_COUNTS] if async_scheduling else []) == []


def test_bfloat16_runs_to_the_end(models: dict[str, str], prompts: list[list[int]]) -> None:
    case = EngineCase(
        models["Qwen3-MoE"], Layout(tp=2), expert_parallel=True, dtype="bfloat16", engine_args=ENGINE
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert [len(tokens) for tokens in result.token_ids] == [NUM_TOKENS] * len(prompts)
    assert len(set(result.token_ids)) > 4
