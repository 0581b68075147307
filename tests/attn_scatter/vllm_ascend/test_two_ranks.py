# SPDX-License-Identifier: Apache-2.0
"""Scattered attention input of engines on vllm-ascend, on the emulator with its race checker.

Steps are of odd and of even numbers of rows, and of a single one.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.findings import Findings
from tests.attn_scatter.families import FAMILIES
from tests.attn_scatter.vllm_ascend.phases import (
    MANY,
    NEVER,
    NUM_TOKENS,
    check_bytes,
    check_own_counts,
    run,
    scattering,
)
from tests.support.engines.bfloat16 import write_bfloat16
from tests.support.engines.graph_counts import GraphCounts
from tests.support.engines.near_ties import TIE_BFLOAT16, follow
from tests.support.engines.upstream_races import CAPTURE, others
from tests.support.long_tables import long_table
from tests.support.reference import float_network, make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

# steps of at most 95 rows: prompts are prefilled in chunks, beside others that decode
ENGINE: dict[str, Any] = {"max_num_batched_tokens": 95, "max_num_seqs": 6, "enable_prefix_caching": False}
SYNC = {"async_scheduling": False}  # whose own races are known
MOST_TIES = 6  # tokens of all that bfloat16 may choose otherwise
SIZES = [1, 2, 4, 6]  # tokens of captured steps
TP2 = Layout(tp=2)


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    """Of 1 to 90 tokens; the last one runs alone, one token a step."""
    cut = make_prompts(tiny_model)
    return [*cut[:6], cut[7][:33], cut[9][:2], cut[8]]


@pytest.fixture(scope="module")
def expected(tiny_model: str, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    return transformers_tokens(tiny_model, prompts, NUM_TOKENS)


@pytest.mark.parametrize("expert_parallel", [False, pytest.param(True, marks=long_table)], ids=["TP2", "TP2+EP"])
def test_deepseek(
    tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], expert_parallel: bool
) -> None:
    """Latent attention, a dense layer and routed ones with a shared expert: beside vllm-ascend's own path."""
    case = EngineCase(
        tiny_model, TP2, expert_parallel=expert_parallel, ascend_ext=scattering(), engine_args=ENGINE
    )
    for plain, always, some in run(case, prompts, [NEVER, 1, MANY]):
        assert [phase.tokens for phase in (plain, always, some)] == [expected] * 3
        assert plain.scatter["num_scattered"] == 0 and plain.sent["HcclReduceScatter"] == 0
        assert always.scatter["num_plain"] == 0
        assert min(some.scatter["num_plain"], some.scatter["num_scattered"]) > 0
        check_bytes(plain, always)


@long_table
def test_bfloat16(tiny_model: str, prompts: list[list[int]], tmp_path: Path, vllm_preloaded: None) -> None:
    """Each rank rounds sums of its own rows, so tokens are held to the network in float32, ties apart."""
    model = write_bfloat16(tiny_model, tmp_path)
    case = EngineCase(model, TP2, dtype="bfloat16", ascend_ext=scattering(), engine_args=ENGINE)
    [(plain, always), _] = run(case, prompts, [NEVER, 1])
    assert always.scatter["num_plain"] == 0
    check_bytes(plain, always)
    for phase in (plain, always):
        follow(model, prompts, phase.tokens, float_network).assert_tokens(TIE_BFLOAT16, MOST_TIES)


@long_table
@pytest.mark.parametrize("num_drafts", [1, 3])
def test_deepseek_with_drafts(
    tiny_model: str, prompts: list[list[int]], expected: list[tuple[int, ...]], num_drafts: int
) -> None:
    """The layer of drafts, which is not scattered, gets the rows as ever."""
    case = EngineCase(
        tiny_model, TP2, num_speculative_tokens=num_drafts, ascend_ext=scattering(), engine_args=ENGINE | SYNC
    )
    for plain, always in run(case, prompts, [NEVER, 1]):
        assert [phase.tokens for phase in (plain, always)] == [expected] * 2
        assert always.scatter["num_plain"] == 0 and always.scatter["num_scattered"] > 0
        check_own_counts(always)


@long_table
@pytest.mark.parametrize("family", ["Qwen3-MoE", "GLM-4-MoE", "Mixtral"])
def test_divided_projections(family: str, tiny_model: str, prompts: list[list[int]], tmp_path: Path) -> None:
    """The gather comes before the projection, which the ranks divide."""
    config_name, settings = FAMILIES[family]
    model = write_model(tmp_path, tiny_model, config_name, **settings)
    case = EngineCase(model, TP2, ascend_ext=scattering(), engine_args=ENGINE)
    expected = transformers_tokens(model, prompts, NUM_TOKENS)
    assert len(set(expected)) > 4  # not degenerate
    for plain, always in run(case, prompts, [NEVER, 1]):
        assert [phase.tokens for phase in (plain, always)] == [expected] * 2
        assert always.scatter["num_plain"] == 0
        check_bytes(plain, always)


@long_table
@pytest.mark.parametrize("mode", ["FULL_DECODE_ONLY", "PIECEWISE"])
def test_beside_graphs(
    tiny_model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    race_reports: Findings,
    mode: str,
) -> None:
    """Steps of captured sizes replay vllm-ascend's own layers, and larger ones are scattered."""
    graphs = GraphCounts(monkeypatch)
    compilation = {"cudagraph_mode": mode, "cudagraph_capture_sizes": SIZES}
    settings = {"enforce_eager": False, "compilation_config": compilation}
    case = EngineCase(tiny_model, TP2, ascend_ext=scattering(), engine_args=ENGINE | SYNC | settings)
    for plain, always in run(case, prompts, [NEVER, 1]):
        assert [phase.tokens for phase in (plain, always)] == [expected] * 2
        assert always.scatter["num_scattered"] >= sum(map(len, prompts)) // ENGINE["max_num_batched_tokens"]
        check_own_counts(always)
    assert graphs.captures >= len(SIZES) * TP2.num_ranks
    assert graphs.replays >= 2 * NUM_TOKENS * TP2.num_ranks
    assert others(race_reports.take(), CAPTURE) == []


@pytest.mark.parametrize(
    ("attribute", "words"), [("enable_mlapo", "(enable_mlapo)"), ("fa_quant_layer", "(quantised keys)")]
)
def test_attention_that_projects_within_its_kernel_is_refused(attribute: str, words: str) -> None:
    from vllm_ascend.attention.mla_v1 import AscendMLAImpl

    from vllm_ascend_ext.integration.attn_scatter.ascend_attention import narrow_rows
    from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

    own = object.__new__(AscendMLAImpl)
    vars(own).update({"enable_mlapo": False, "fa_quant_layer": False, attribute: True})
    attention = SimpleNamespace(mla_attn=SimpleNamespace(mla_attn=SimpleNamespace(impl=own)))
    with pytest.raises(UnsupportedCombinationError, match=re.escape(f"projects within its kernel {words}")):
        narrow_rows(attention, "layer 3")
