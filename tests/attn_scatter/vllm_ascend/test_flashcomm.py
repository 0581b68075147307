# SPDX-License-Identifier: Apache-2.0
"""One gather a layer where vllm-ascend's FlashComm v1 divides the rows, on an emulated A3 and A2."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.attn_scatter.vllm_ascend.phases import MANY, NUM_TOKENS
from tests.attn_scatter.vllm_ascend.served import (
    DEADLINE_S,
    DP2XTP2,
    GRAPHS,
    ON_A_STREAM,
    THRESHOLDS,
    Case,
    Served,
)
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import A2_SOC, A3_SOC
from tests.support.engines.file_connector import transfer
from tests.support.engines.near_ties import follow
from tests.support.engines.upstream_races import CAPTURE, others
from tests.support.long_tables import long_table
from tests.support.quantised import integer_network, split_by_tp
from vllm_ascend_ext.tools.engine import EngineCase

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

CASES = {
    "TP2+EP": Case(is_cut=True),
    "sparse TP2+EP": Case("DeepSeek-V3.2", is_cut=True),
    "W8A8 DP2xTP2+EP MTP1": Case("DeepSeek W8A8", DP2XTP2, drafts=1, split=(6, 2), is_cut=True),
    "sparse W8A8 DP2xTP2+EP MTP3 in graphs": Case(
        "DeepSeek-V3.2 W8A8", DP2XTP2, drafts=3, capture_sizes=GRAPHS, split=(6, 2), is_cut=True
    ),
    "sparse W4A8 TP2+EP MTP3 in graphs, shared experts on a stream": Case(
        "DeepSeek-V3.2 W4A8", drafts=3, capture_sizes=GRAPHS, is_cut=True, additional=ON_A_STREAM
    ),
}
KINDS = ("num_plain", "num_scattered")


@pytest.fixture(scope="module")
def served(tiny_model: str, tmp_path_factory: pytest.TempPathFactory, vllm_preloaded: None) -> Served:
    return Served(tiny_model, lambda: tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", CASES)
def test_one_gather(served: Served, race_reports: Findings, tmp_path: Path, name: str) -> None:
    """vllm-ascend gathers what attention projects in two parts, or whole rows for sparse attention. In steps that
    are ours each layer gathers the projections' results at once, and all else is alike."""
    case = CASES[name]
    ranks, ways = served.run_apart(tmp_path, case, A3_SOC)
    served.check(case, ranks)
    width = width_before(served.model(case.model))
    for plain, always in ranks:
        ours, predicted = always.report["traffic"]["attn_scatter"], always.scatter["predicted_bytes"]
        assert {name for name, counts in ours.items() if counts["bytes"]} == {"all_gather_into"}
        assert ours["all_gather_into"]["bytes"] == predicted
        saved = {operation: plain.sent[operation] - always.sent[operation] for operation in plain.sent}
        gathered = saved.pop("HcclAllGather")
        if not (case.drafts and case.is_quantised):  # ties may change how many drafts are kept
            assert set(saved.values()) == {0}
            assert gathered == predicted * (width - 1)
    assert min(ways["MC2"], ways["All2AllV"]) > 0
    assert others(race_reports.take(), CAPTURE) == []


def test_larger_steps_are_left_alone(served: Served, race_reports: Findings, tmp_path: Path) -> None:
    """With dense latent attention one gather pays in small steps only (`cut_cost`), here up to MANY rows."""
    case = CASES["TP2+EP"]
    ranks, _ = served.run_apart(tmp_path, case, A3_SOC, [*THRESHOLDS, (1, MANY)])
    served.check(case, [phases[:2] for phases in ranks])
    for _, always, some in ranks:
        assert some.tokens == always.tokens
        assert some.scatter["max_tokens"] == MANY and always.scatter["max_tokens"] is None
        assert min(some.scatter["num_plain"], some.scatter["num_scattered"]) > 0
        assert sum(some.scatter[kind] for kind in KINDS) == always.scatter["num_scattered"]
        counts = some.report["traffic"]["attn_scatter"]["all_gather_into"]
        assert 0 < counts["bytes"] == some.scatter["predicted_bytes"] < always.scatter["predicted_bytes"]
    assert others(race_reports.take(), CAPTURE) == []


PREFILL = {
    "FlashComm v1": Case("DeepSeek W8A8", DP2XTP2, drafts=1, split=(6, 3), is_cut=True),
    "shared-expert DP": Case(
        "DeepSeek W8A8",
        DP2XTP2,
        drafts=1,
        split=(6, 3),
        is_cut=True,
        additional={"enable_shared_expert_dp": True},
    ),
    "whole rows": Case("DeepSeek W8A8", drafts=1),
}
WAYS = {A2_SOC: {"AllGather"}, A3_SOC: {"MC2", "All2AllV"}}


@pytest.mark.parametrize(
    ("name", "soc"), [(name, soc) for soc in WAYS for name in PREFILL if (name, soc) != ("whole rows", A3_SOC)]
)
def test_prefill_for_another_engine(
    served: Served, race_reports: Findings, tmp_path: Path, name: str, soc: str
) -> None:
    """The engine that prefills writes the caches of its steps, and another one, without us, decodes from them."""
    case = PREFILL[name]
    ours = case.engine(served.model(case.model))
    further = {key: value for key, value in ours.engine_args["additional_config"].items() if key != "ascend_ext"}
    engines = {
        "producer": with_arguments(ours, kv_transfer_config=transfer("kv_producer", tmp_path)),
        "consumer": with_arguments(
            replace(ours, ascend_ext=None),
            kv_transfer_config=transfer("kv_consumer", tmp_path),
            additional_config=further,
        ),
    }
    splits = {name: case.split for name in engines if case.split is not None}
    lengths = {"producer": 1, "consumer": NUM_TOKENS}
    runs = run_on_a3(tmp_path, engines, served.prompts, lengths, DEADLINE_S, splits, soc)
    tokens = {which: run.result.token_ids for which, run in runs.items()}
    assert tokens["producer"] == [of_prompt[:1] for of_prompt in tokens["consumer"]]
    network = integer_network(split_by_tp(2, cut=case.is_cut))
    follow(served.model(case.model), served.prompts, tokens["consumer"], network).assert_tokens()
    for rank in runs["producer"].result.ranks:
        assert rank.report is not None
        assert rank.report["attn_scatter"]["num_scattered"] > 0
        sent = {name: counts["bytes"] for name, counts in rank.report["traffic"]["attn_scatter"].items()}
        assert sum(sent.values()) == rank.report["attn_scatter"]["predicted_bytes"] > 0
        assert not case.is_cut or sum(sent.values()) == sent["all_gather_into"]
    assert set(runs["consumer"].served) <= WAYS[soc]
    assert others(race_reports.take(), CAPTURE) == []


def with_arguments(case: EngineCase, **arguments: Any) -> EngineCase:
    return replace(case, engine_args=case.engine_args | arguments)


def width_before(model: str) -> Fraction:
    """Returns how wide the rows are that vllm-ascend gathers, in widths of those that we gather."""
    config = json.loads((Path(model) / "config.json").read_text())
    latent = config["q_lora_rank"] + config["kv_lora_rank"] + config["qk_rope_head_dim"]
    if "index_topk" not in config:
        return Fraction(1)
    return Fraction(config["hidden_size"], latent + config["index_head_dim"] + config["index_n_heads"])
