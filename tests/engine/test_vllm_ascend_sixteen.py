# SPDX-License-Identifier: Apache-2.0
"""Sixteen ranks of an emulated A2, from which number on vllm-ascend sends small steps by MC2 there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers
from tests.pairs.marks import on_pairs
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import A2_SOC, REPLAY
from tests.support.engines.expert_load import summed_load
from tests.support.engines.near_ties import follow
from tests.support.engines.upstream_races import IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.quantised import integer_network, split_by_tp, write_w8a8
from tests.support.reference import QWEN3_MOE, float_network, make_prompts, transformers_tokens, write_model
from tests.support.saved_output import assert_frames_are_the_tokens, next_instance
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
DEADLINE_S = 1000
# heads and experts for every rank; MC2 takes the steps of decode, those with more tokens are gathered
SHAPE = {"num_attention_heads": 16, "num_key_value_heads": 2}
ENGINE = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 128,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}


@dataclass(frozen=True)
class Case:
    """mode: of the graphs, or "" for none. split: prompts of each replica."""

    layout: Layout
    mode: str = ""
    is_quantised: bool = False
    split: tuple[int, ...] | None = None
    ascend: dict[str, Any] = field(default_factory=dict)

    def engine(self, model: str) -> EngineCase:
        features = {
            "eplb_load": {"enabled": True, "interval": 2, "deadline_s": 120.0},
            "mtp_output": {"enabled": True, "instance": next_instance()},
        }
        settings: dict[str, Any] = {"additional_config": {"ascend_ext": features, **self.ascend}}
        if self.mode:
            graphs = {"cudagraph_mode": self.mode, "cudagraph_capture_sizes": [2, 4]}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        return EngineCase(
            model, self.layout, expert_parallel=True, ascend_ext=features, engine_args=ENGINE | settings
        )


CASES = {
    "DP8xTP2": Case(Layout(tp=2, dp=8), split=(2, 2, 1, 1, 1, 1, 1, 0)),
    "TP16 FULL_AND_PIECEWISE": Case(Layout(tp=16), "FULL_AND_PIECEWISE"),
    "DP8xTP2 W8A8 FULL_DECODE_ONLY, cut": Case(
        Layout(tp=2, dp=8), "FULL_DECODE_ONLY", True, (2, 2, 1, 1, 1, 1, 1, 0), {"enable_flashcomm1": True}
    ),
}
# run with the second pair, in its nightly step
LATER = {"TP16 FULL_AND_PIECEWISE"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[bool, str]:
    """Whether quantised -> the model's folder."""
    folder = tmp_path_factory.mktemp("float")
    model = write_model(folder, tiny_model, "Qwen3MoeConfig", **(QWEN3_MOE | SHAPE | {"num_experts": 32}))
    return {False: model, True: write_w8a8(model, tmp_path_factory.mktemp("w8a8"))}


@pytest.mark.parametrize("name", on_pairs(CASES, LATER))
def test_load_by_mc2(
    models: dict[bool, str], tiny_model: str, race_reports: Findings, tmp_path: Path, name: str
) -> None:
    """Decode steps travel by MC2, the first steps are gathered: real rows count once in both."""
    case, prompts = CASES[name], make_prompts(tiny_model)[:9]
    model = models[case.is_quantised]
    splits = {name: case.split} if case.split is not None else None
    run = run_on_a3(tmp_path, {name: case.engine(model)}, prompts, NUM_TOKENS, DEADLINE_S, splits, A2_SOC)[name]
    if case.is_quantised:
        network = integer_network(split_by_tp(case.layout.tp))
        followed = follow(model, prompts, run.result.token_ids, network)
        followed.assert_tokens()
        load_LE, num_tokens = summed_load(run.result, 0)
        assert num_tokens == sum(len(prompt) + NUM_TOKENS - 1 for prompt in prompts)
        followed.assert_all_of(load_LE)
    else:
        assert run.result.token_ids == transformers_tokens(model, prompts, NUM_TOKENS, float_network)
        assert_equals_transformers(model, prompts, run.result)
    assert_frames_are_the_tokens(run.saved)
    assert run.ways == {"MC2", "AllGather"}
    assert bool(run.served[REPLAY]) == bool(case.mode)
    assert others(race_reports.take(), IN_GRAPHS) == []
