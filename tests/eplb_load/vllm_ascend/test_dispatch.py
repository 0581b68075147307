# SPDX-License-Identifier: Apache-2.0
"""Expert load where vllm-ascend gathers or cuts the rows: every real row counts once, on the emulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.eplb_load.test_engine import assert_equals_transformers, assert_every_scheduled_row_counts
from tests.pairs.marks import on_first_pair
from tests.support.engines.expert_load import summed_load
from tests.support.reference import make_prompts, transformers_load, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
# small steps of many sizes: odd numbers of rows, requests that join and leave, and without drafts, whose passes a
# chunk would add to, prefill in chunks
ENGINE = {"max_num_seqs": 4, "enable_prefix_caching": False, "async_scheduling": False}
CHUNKS = {"max_num_batched_tokens": 48}
DEADLINE_S = 240
FLASHCOMM = {"enable_flashcomm1": True}


@dataclass(frozen=True)
class Case:
    """model: "Qwen3-MoE", or "DeepSeek" with `drafts` of its MTP layer. split: prompts of each replica."""

    model: str
    layout: Layout
    drafts: int = 0
    split: tuple[int, ...] | None = None
    additional: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


GATHERED = {
    "FlashComm TP2": Case("Qwen3-MoE", Layout(tp=2), additional=FLASHCOMM),
    "DP2 with an idle replica": Case("Qwen3-MoE", Layout(dp=2), split=(6, 1)),
    "DP2 MTP1 by plan": Case("DeepSeek", Layout(dp=2), 1, (4, 3), features={"dp_gather": {"enabled": True}}),
    "PP2": Case("Qwen3-MoE", Layout(pp=2)),
    # no drafts: vllm-ascend's second pass fails in a step in which no request decodes (pcp_utils.py:1970)
    "TP2 DCP2": Case("DeepSeek", Layout(tp=2), arguments={"decode_context_parallel_size": 2}),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("model")
    return {"DeepSeek": tiny_model, "Qwen3-MoE": write_qwen3_moe(folder, tiny_model)}


@pytest.fixture(scope="module")
def expected(models: dict[str, str], prompts: list[list[int]]) -> dict[str, list[tuple[int, ...]]]:
    return {name: transformers_tokens(model, prompts, NUM_TOKENS) for name, model in models.items()}


LATER = "DP2 with an idle replica"  # the one that runs with the second pair


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[on_first_pair] * (name != LATER)) for name in GATHERED]
)
def test_gathered_rows_count_once(
    models: dict[str, str], prompts: list[list[int]], expected: dict[str, list[tuple[int, ...]]], name: str
) -> None:
    """A rank finds the rows of its own replica among all that it routes, and a stage counts its own layers."""
    case = GATHERED[name]
    engine = engine_of(case, models)
    result = run_engine(engine, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S, split=case.split)
    assert_counts_are_exact(prompts, expected[case.model], result)


def engine_of(case: Case, models: dict[str, str]) -> EngineCase:
    extension = {"eplb_load": {"enabled": True, "interval": 3}} | case.features
    settings = {"additional_config": {"ascend_ext": extension, **case.additional}, **case.arguments}
    return EngineCase(
        models[case.model],
        case.layout,
        expert_parallel=case.layout.pp == 1,
        num_speculative_tokens=case.drafts,
        ascend_ext=extension,
        engine_args=ENGINE | settings | ({} if case.drafts else CHUNKS),
    )


def assert_counts_are_exact(
    prompts: list[list[int]], expected: list[tuple[int, ...]], result: EngineResult
) -> None:
    """Without drafts the load is transformers'. With drafts vLLM's metrics tell how many rows there are, and those
    that transformers routes are among them."""
    model = result.case.model
    assert result.token_ids == expected
    if not result.case.num_speculative_tokens:
        assert_equals_transformers(model, prompts, result)
        return
    assert_every_scheduled_row_counts(prompts, result)
    sequences = [[*p, *tokens[:-1]] for p, tokens in zip(prompts, result.token_ids, strict=True)]
    rows = zip(summed_load(result, 0)[0], transformers_load(model, sequences), strict=True)
    assert all(ours >= kept for row in rows for ours, kept in zip(*row, strict=True))


@on_first_pair
def test_rows_that_travel_in_another_way_are_an_error() -> None:
    """A dispatch that is not known, and one that is, of which a layer routes another number of rows."""
    from enum import Enum
    from types import SimpleNamespace

    from vllm.forward_context import override_forward_context
    from vllm_ascend.ascend_forward_context import MoECommType

    from vllm_ascend_ext.integration.eplb_load.ascend_rows import num_to_count, own_rows
    from vllm_ascend_ext.rank_place import RankPlace

    layer, place = SimpleNamespace(layer_name="experts"), RankPlace(1, 2)
    context = SimpleNamespace(
        moe_comm_type=MoECommType.MC2, num_tokens=5, padded_num_tokens=6, flash_comm_v1_enabled=False
    )
    with override_forward_context(context):
        assert own_rows(layer, 3, place) == slice(0, 3)
        assert num_to_count(5, place) == 2
        with pytest.raises(RuntimeError, match="experts routes 5 rows, .* by MC2 has 3 on this rank"):
            own_rows(layer, 5, place)
        context.moe_comm_type = Enum("MoECommType", "PIGEON").PIGEON
        with pytest.raises(RuntimeError, match=r"is dispatched by MoECommType.PIGEON, whose rows cannot"):
            own_rows(layer, 3, place)
        with pytest.raises(RuntimeError, match="PIGEON"):
            num_to_count(5, place)
        assert num_to_count(0, place) == 0  # a dummy pass
