# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend's captured graphs on the emulated NPU: tokens and expert load, with and without our features.

The captured sizes leave gaps, so that most steps are smaller than the graph that replays them, and every case
counts its graphs, so that none passes eager.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers, summed_load
from tests.support.graph_counts import GraphCounts
from tests.support.reference import make_prompts, transformers_tokens, write_model
from tests.support.upstream_races import CAPTURE, others
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
DEADLINE_S = 400
NUM_DRAFTS = 2
LOAD = {"eplb_load": {"enabled": True, "interval": 3}}
ENGINE = {
    "max_num_batched_tokens": 64,
    "max_num_seqs": 6,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}
MODEL_SETTINGS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
# tokens of a decode step: one a request, or with drafts three
SIZES = {"Qwen3-MoE": [2, 4, 6], "DeepSeek": [6, 18]}


@dataclass(frozen=True)
class Case:
    """Describes an engine with graphs. npugraph_ex: vllm-ascend's default, its passes over a compiled graph."""

    model: str
    mode: str
    layout: Layout
    features: dict[str, Any] | None
    npugraph_ex: bool = True

    def engine(self, models: dict[str, str], **engine_args: Any) -> EngineCase:
        additional: dict[str, Any] = {} if self.features is None else {"ascend_ext": self.features}
        additional["ascend_compilation_config"] = {"enable_npugraph_ex": self.npugraph_ex}
        graphs = {"cudagraph_mode": self.mode, "cudagraph_capture_sizes": SIZES[self.model]}
        settings = {"enforce_eager": False, "compilation_config": graphs, "additional_config": additional}
        return EngineCase(
            models[self.model],
            self.layout,
            expert_parallel=self.layout.tp > 1,
            num_speculative_tokens=NUM_DRAFTS if self.model == "DeepSeek" else 0,
            ascend_ext=self.features,
            engine_args=ENGINE | settings | engine_args,
        )


TP2 = Layout(tp=2)
CASES = {
    "Qwen3-MoE PIECEWISE TP1, theirs": Case("Qwen3-MoE", "PIECEWISE", Layout(), None),
    "Qwen3-MoE PIECEWISE TP2+EP": Case("Qwen3-MoE", "PIECEWISE", TP2, LOAD),
    "Qwen3-MoE FULL_DECODE_ONLY TP1": Case("Qwen3-MoE", "FULL_DECODE_ONLY", Layout(), LOAD),
    "Qwen3-MoE FULL_DECODE_ONLY TP2+EP, theirs": Case("Qwen3-MoE", "FULL_DECODE_ONLY", TP2, None, False),
    "Qwen3-MoE FULL_AND_PIECEWISE TP2+EP": Case("Qwen3-MoE", "FULL_AND_PIECEWISE", TP2, LOAD),
    "DeepSeek PIECEWISE TP2+EP": Case("DeepSeek", "PIECEWISE", TP2, LOAD),
    "DeepSeek FULL_DECODE_ONLY TP1": Case("DeepSeek", "FULL_DECODE_ONLY", Layout(), LOAD, False),
    "DeepSeek FULL_DECODE_ONLY TP2+EP, theirs": Case("DeepSeek", "FULL_DECODE_ONLY", TP2, None),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("Qwen3-MoE")
    qwen3_moe = write_model(folder, tiny_model, "Qwen3MoeConfig", **MODEL_SETTINGS)
    return {"Qwen3-MoE": qwen3_moe, "DeepSeek": tiny_model}


@pytest.fixture(scope="module")
def expected(models: dict[str, str], prompts: list[list[int]]) -> dict[str, list[tuple[int, ...]]]:
    return {name: transformers_tokens(model, prompts, NUM_TOKENS) for name, model in models.items()}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> GraphCounts:
    return GraphCounts(monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_load_equal_transformers(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    graphs: GraphCounts,
    race_reports: Findings,
    name: str,
) -> None:
    """Padding rows, warm-up and the passes that capture count nothing; what graphs replay counts once."""
    case = CASES[name]
    result = run_engine(case.engine(models), prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert result.token_ids == expected[case.model]
    num_ranks = case.layout.num_ranks
    print(name, "captures", graphs.captures, "replays", graphs.replays)
    assert graphs.captures >= len(SIZES[case.model]) * num_ranks
    assert graphs.replays >= NUM_TOKENS // (1 + NUM_DRAFTS) * num_ranks
    unknown = others(race_reports.take(), CAPTURE)
    print("\n".join(unknown))
    if case.features is None:
        return
    if case.model == "DeepSeek":
        assert_every_scheduled_row_counts(prompts, result)
    else:
        assert_equals_transformers(models[case.model], prompts, result)


def assert_every_scheduled_row_counts(prompts: list[list[int]], result: EngineResult) -> None:
    """vLLM's own metrics say how many rows were verified; the draft routes the target's rows once more, then one
    row a request in its second pass, also where a prompt is not yet complete."""
    (target_LE, num_target), (draft_LE, num_draft) = summed_load(result, 0), summed_load(result, 1)
    metrics = result.ranks[0].metrics
    num_drafts = metrics["vllm:spec_decode_num_drafts"]
    assert num_target == sum(map(len, prompts)) + num_drafts + metrics["vllm:spec_decode_num_draft_tokens"]
    print(num_target, num_draft, num_drafts, target_LE, draft_LE)
    assert [sum(row) for row in target_LE] == [4 * num_target] * 2
    assert [sum(row) for row in draft_LE] == [4 * num_draft]
