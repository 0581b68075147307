# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's captured graphs on the emulated NPU: tokens and expert load, with and without our features.

The captured sizes leave gaps, so that most steps are smaller than the graph that replays them, and every case
counts its graphs, so that none passes eager.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers, assert_every_scheduled_row_counts
from tests.pairs.marks import on_first_pair
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import A2_SOC, REPLAY
from tests.support.engines.expert_load import summed_load
from tests.support.engines.graph_counts import GraphCounts
from tests.support.engines.upstream_races import IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
DEADLINE_S = 400
NUM_DRAFTS = 2
LOAD = {"eplb_load": {"enabled": True, "interval": 2}}
ENGINE = {
    "max_num_seqs": 6,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}
# tokens of a decode step: one a request, or with drafts three
SIZES = {"Qwen3-MoE": [2, 4, 6], "DeepSeek": [6, 18]}
# tokens of a step: Qwen3-MoE's prompts are prefilled in chunks
STEPS = {"Qwen3-MoE": 64, "DeepSeek": 256}


@dataclass(frozen=True)
class Case:
    """Describes an engine with graphs. npugraph_ex: vllm-ascend's default, its passes over a compiled graph."""

    model: str
    mode: str
    layout: Layout
    features: dict[str, Any] | None
    npugraph_ex: bool = True

    def engine(self, models: dict[str, str], *, eager: bool = False) -> EngineCase:
        additional: dict[str, Any] = {} if self.features is None else {"ascend_ext": self.features}
        additional["ascend_compilation_config"] = {"enable_npugraph_ex": self.npugraph_ex}
        settings = {"max_num_batched_tokens": STEPS[self.model], "additional_config": additional}
        if not eager:
            graphs = {"cudagraph_mode": self.mode, "cudagraph_capture_sizes": SIZES[self.model]}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        return EngineCase(
            models[self.model],
            self.layout,
            expert_parallel=self.layout.num_ranks > 1,
            num_speculative_tokens=NUM_DRAFTS if self.model == "DeepSeek" else 0,
            ascend_ext=self.features,
            engine_args=ENGINE | settings,
        )


TP2, DP2 = Layout(tp=2), Layout(dp=2)
CASES = {
    "Qwen3-MoE PIECEWISE TP1, theirs": Case("Qwen3-MoE", "PIECEWISE", Layout(), None),
    "Qwen3-MoE PIECEWISE TP2+EP": Case("Qwen3-MoE", "PIECEWISE", TP2, LOAD),
    "Qwen3-MoE FULL_DECODE_ONLY TP1": Case("Qwen3-MoE", "FULL_DECODE_ONLY", Layout(), LOAD),
    "Qwen3-MoE FULL_DECODE_ONLY TP2+EP, theirs": Case("Qwen3-MoE", "FULL_DECODE_ONLY", TP2, None, False),
    "Qwen3-MoE FULL_AND_PIECEWISE TP2+EP": Case("Qwen3-MoE", "FULL_AND_PIECEWISE", TP2, LOAD),
    "Qwen3-MoE FULL_DECODE_ONLY DP2+EP": Case("Qwen3-MoE", "FULL_DECODE_ONLY", DP2, LOAD),
    "DeepSeek PIECEWISE DP2+EP": Case("DeepSeek", "PIECEWISE", DP2, LOAD),
    "DeepSeek PIECEWISE TP2+EP": Case("DeepSeek", "PIECEWISE", TP2, LOAD),
    "DeepSeek FULL_DECODE_ONLY TP1": Case("DeepSeek", "FULL_DECODE_ONLY", Layout(), LOAD, False),
    "DeepSeek FULL_DECODE_ONLY TP2+EP, theirs": Case("DeepSeek", "FULL_DECODE_ONLY", TP2, None),
}
# for the nightly command
LONG = {
    "Qwen3-MoE PIECEWISE TP1, theirs",
    "Qwen3-MoE FULL_DECODE_ONLY TP1",
    "Qwen3-MoE FULL_DECODE_ONLY TP2+EP, theirs",
    "DeepSeek PIECEWISE DP2+EP",
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("Qwen3-MoE")
    return {"Qwen3-MoE": write_qwen3_moe(folder, tiny_model), "DeepSeek": tiny_model}


@pytest.fixture(scope="module")
def expected(models: dict[str, str], prompts: list[list[int]]) -> dict[str, list[tuple[int, ...]]]:
    return {name: transformers_tokens(model, prompts, NUM_TOKENS) for name, model in models.items()}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> GraphCounts:
    return GraphCounts(monkeypatch)


# run with the second pair, in its nightly step
LATER = {"Qwen3-MoE PIECEWISE TP2+EP", "Qwen3-MoE FULL_DECODE_ONLY TP1"}


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    return [long_table] * (name in LONG) + [on_first_pair] * (name not in LATER)


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in CASES])
def test_tokens_and_load_equal_transformers(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    graphs: GraphCounts,
    race_reports: Findings,
    name: str,
) -> None:
    """Padding rows, warm-up and the passes that capture count nothing; what graphs replay counts once.

    No router of transformers sees drafts: their experts are held to an eager engine's, where the host tells of
    each pass alone.
    """
    case = CASES[name]
    limits = {"max_tokens": NUM_TOKENS, "deadline_s": DEADLINE_S, "split": (5, 2) if case.layout.dp > 1 else None}
    result = run_engine(case.engine(models), prompts, **limits)
    assert result.token_ids == expected[case.model]
    num_ranks = case.layout.num_ranks
    assert graphs.captures >= len(SIZES[case.model]) * num_ranks
    assert graphs.replays >= NUM_TOKENS // (1 + NUM_DRAFTS) * num_ranks
    assert others(race_reports.take(), IN_GRAPHS) == []
    if case.features is None:
        return
    if case.model == "Qwen3-MoE":
        assert_equals_transformers(models[case.model], prompts, result)
        return
    assert_every_scheduled_row_counts(prompts, result)
    num_replays = graphs.replays
    eager = run_engine(case.engine(models, eager=True), prompts, **limits)
    assert graphs.replays == num_replays
    assert [summed_load(result, model) for model in (0, 1)] == [summed_load(eager, model) for model in (0, 1)]


@on_first_pair
@long_table
def test_load_on_an_a3(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    race_reports: Findings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Captured steps dispatch by MC2, of whose padded rows each TP rank routes and counts a slice."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    case = Case("Qwen3-MoE", "FULL_DECODE_ONLY", TP2, LOAD)
    run = run_on_a3(tmp_path, {"": case.engine(models)}, prompts, NUM_TOKENS, DEADLINE_S)[""]
    assert run.result.token_ids == expected["Qwen3-MoE"]
    assert run.dispatches[REPLAY] >= NUM_TOKENS // 2 * 2
    assert min(run.dispatches["MC2"], run.dispatches["All2AllV"]) > 0
    assert_equals_transformers(models["Qwen3-MoE"], prompts, run.result)
    assert others(race_reports.take(), IN_GRAPHS) == []


@on_first_pair
@long_table
def test_load_of_a_pipeline(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    race_reports: Findings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each of two stages counts its own layer, in steps that a graph has as a whole and in those in pieces."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    case = Case("Qwen3-MoE", "FULL_AND_PIECEWISE", Layout(tp=2, pp=2), LOAD)
    run = run_on_a3(tmp_path, {"": case.engine(models)}, prompts, NUM_TOKENS, DEADLINE_S, soc=A2_SOC)[""]
    assert run.result.token_ids == expected["Qwen3-MoE"]
    assert run.dispatches[REPLAY] >= NUM_TOKENS // 2 * case.layout.num_ranks
    assert_equals_transformers(models["Qwen3-MoE"], prompts, run.result)
    assert others(race_reports.take(), IN_GRAPHS) == []
