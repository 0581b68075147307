# SPDX-License-Identifier: Apache-2.0
"""Frames of vllm-ascend's engines as they are served: layouts, drafts, graphs, dispatches, weights, KV transfer.

Whatever the layers do, each frame has the engine's tokens, once and in order, with one copy a step on the rank
that sends and none on another.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.mtp_output.served import (
    BOTH_ROLES,
    CASES,
    NUM_TOKENS,
    PD,
    PIPELINES,
    PRODUCER,
    Case,
    engine_of,
)
from tests.support.engines.apart import A3_SOC, REPLAY, call_apart
from tests.support.engines.eagle3 import write_eagle3
from tests.support.engines.graph_counts import GraphCounts
from tests.support.engines.upstream_races import CORRECTED_COUNTS, IN_GRAPHS, VALID_COUNTS, others
from tests.support.engines.worker_processes import run_in_workers
from tests.support.long_tables import LONG, long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w8a8
from tests.support.reference import float_network, make_prompts, transformers_tokens, write_qwen3_moe
from tests.support.saved_output import SavedRun, run_saved
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.tools.engine import EngineCase

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

DEADLINE_S = 400
QUICK = {"1 mtp1 PD"}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> dict[str, str]:
    allow_float32()  # of quantised models; the ranks are forks of this process
    if not LONG:
        return {"DeepSeek": tiny_model}
    qwen = write_qwen3_moe(tmp_path_factory.mktemp("Qwen3-MoE"), tiny_model)
    return {
        "DeepSeek": tiny_model,
        "Qwen3-MoE": qwen,
        "W8A8": write_w8a8(qwen, tmp_path_factory.mktemp("w8a8")),
        "eagle3": write_eagle3(tmp_path_factory.mktemp("eagle3"), qwen),
    }


@pytest.fixture(scope="module")
def expected(models: dict[str, str], prompts: list[list[int]]) -> dict[str, list[tuple[int, ...]]]:
    """Transformers' tokens; of W8A8 with the integer arithmetic of two TP ranks."""
    w8a8 = integer_network(split_by_tp(2))
    return {
        name: transformers_tokens(model, prompts, NUM_TOKENS, w8a8 if name == "W8A8" else float_network)
        for name, model in models.items()
        if name != "eagle3"
    }


@pytest.mark.parametrize("name", [pytest.param(name, marks=[long_table] * (name not in QUICK)) for name in CASES])
def test_frames_are_the_engines_tokens(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    race_reports: Findings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    case = CASES[name]
    roles = {PD: (PRODUCER, "kv_consumer"), BOTH_ROLES: ("kv_both",), "": ("",)}[case.transfer]
    for role in roles:
        engine = engine_of(case, models, role, tmp_path)
        num_tokens = 1 if role == PRODUCER else NUM_TOKENS
        with monkeypatch.context() as patch:
            runs = run_case(case.part(role), engine, prompts, num_tokens, tmp_path, patch)
        check_runs(runs, case, expected[case.model], num_tokens)
    known = [] if case.mode is None else [*IN_GRAPHS]
    if case.is_async and case.drafts:
        known += [CORRECTED_COUNTS, VALID_COUNTS]
    assert others(race_reports.take(), known) == []


@long_table
@pytest.mark.parametrize("name", PIPELINES)
def test_frames_of_a_pipeline(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: dict[str, list[tuple[int, ...]]],
    race_reports: Findings,
    tmp_path: Path,
    name: str,
) -> None:
    """Of worker processes, with as many batches on their way as there are stages: the last stage sends."""
    case = PIPELINES[name]
    num_tokens = 1 if case.transfer and case.is_async else NUM_TOKENS
    engine = engine_of(case, models, PRODUCER if case.transfer else "", tmp_path)
    sampling = [{"max_tokens": num_tokens} for _ in prompts]
    options: dict[str, Any] = {
        "num_ranks": case.layout.num_ranks,
        "soc": None,
        "compiles": case.mode is not None,
    }
    run, _ = call_apart(tmp_path, run_in_workers, engine, prompts, sampling, deadline_s=DEADLINE_S, **options)
    for index, tokens in enumerate(expected[case.model]):
        told = run.told[str(index)]
        assert tuple(told.tokens) == tuple(run.outputs[str(index)]) == tokens[:num_tokens]
        assert told.statuses.count(RequestStatus.FINISHED) == 1 and told.statuses[-1] == RequestStatus.FINISHED
        assert bool(told.num_drafts) == bool(case.drafts and num_tokens > 1)
    copies = [report["mtp_output"]["copies"] for report in run.reports]
    assert [rank for rank, count in enumerate(copies) if count] == [case.layout.tp]
    known = [*IN_GRAPHS, CORRECTED_COUNTS, VALID_COUNTS]
    assert others(race_reports.take(), known) == []


def apart(case: Case) -> dict[str, Any]:
    """Returns what the process of its own has to know."""
    soc = A3_SOC if case.soc == "A3" else None
    return {"num_ranks": case.layout.num_ranks, "soc": soc, "compiles": case.mode is not None}


def run_case(
    case: Case,
    engine: EngineCase,
    prompts: list[list[int]],
    num_tokens: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[SavedRun]:
    """Runs the engine, and sees that it went where the case says."""
    sampling = [{"max_tokens": num_tokens} for _ in prompts]
    split = {1: None, 2: (5, 2), 4: (3, 2, 1, 1)}[case.layout.dp]
    options: dict[str, Any] = {"deadline_s": DEADLINE_S, "split": split}
    replays = num_tokens // decode_tokens(case.drafts) * case.layout.num_ranks * (num_tokens > 1)
    if case.is_apart:
        runs, dispatches = call_apart(folder, run_saved, engine, prompts, sampling, **apart(case), **options)
        check_dispatches(case, dispatches, replays, num_tokens)
        return runs  # type: ignore[no-any-return]
    graphs = None if case.mode is None else GraphCounts(monkeypatch)
    runs = run_saved(engine, prompts, sampling, **options)
    assert graphs is None or graphs.replays >= replays
    return runs


def check_dispatches(case: Case, dispatches: Counter[str], replays: int, num_tokens: int) -> None:
    assert case.mode is None or dispatches[REPLAY] >= replays
    if num_tokens > 1:
        assert set(dispatches) - {REPLAY} == set(case.ways if case.soc == "A3" else ("AllGather",))


def check_runs(runs: list[SavedRun], case: Case, expected: list[tuple[int, ...]], num_tokens: int) -> None:
    seen: set[str] = set()
    stages = case.layout.pp
    for run in runs:
        if run.rank % (case.layout.tp * stages) != case.layout.tp * (stages - 1):
            assert run.copies == (0, 0) and run.report["mtp_output"]["copies"] is None and not run.told
            continue
        output = run.report["mtp_output"]
        assert run.copies == (0, output["copies"]) and output["copies"] > 0
        assert output["frames"] == run.num_frames > 0
        assert run.told.keys() == run.outputs.keys()
        for request, told in run.told.items():
            assert tuple(told.tokens) == tuple(run.outputs[request]) == expected[int(request)][:num_tokens]
            assert told.statuses[-1] == RequestStatus.FINISHED
            assert told.statuses.count(RequestStatus.FINISHED) == 1
            assert bool(told.num_drafts) == bool(case.drafts and num_tokens > 1)
        seen |= set(run.told)
    assert seen == {str(index) for index in range(len(expected))}
