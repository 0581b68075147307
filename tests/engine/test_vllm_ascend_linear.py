# SPDX-License-Identifier: Apache-2.0
"""Qwen3-Next on the emulated NPU with our features, against transformers: gated delta nets, whose states live
beside keys and values. Decode steps are captured graphs, prompts are prefilled in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.findings import Findings
from tests.eplb_load.test_engine import assert_equals_transformers
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import REPLAY
from tests.support.engines.qwen3_next import write_qwen3_next
from tests.support.engines.upstream_races import CAPTURE, others
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, transformers_tokens
from tests.support.saved_output import SavedRun, next_instance
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

NUM_TOKENS = 12
DEADLINE_S = 400


@dataclass(frozen=True)
class Case:
    """ways: how rows travel to their experts on an A3."""

    layout: Layout
    ways: frozenset[str]
    with_experts_apart: bool = True
    split: tuple[int, ...] | None = None

    def engine(self, model: str) -> EngineCase:
        return EngineCase(
            model,
            self.layout,
            expert_parallel=self.with_experts_apart,
            ascend_ext={
                "eplb_load": {"enabled": True, "interval": 2},
                "mtp_output": {"enabled": True, "instance": next_instance()},
            },
            engine_args={
                "max_num_seqs": 4,
                "max_num_batched_tokens": 48,
                "enable_prefix_caching": False,
                "async_scheduling": False,
                "enforce_eager": False,
                "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [2, 4]},
            },
        )


CASES = {
    "TP2": Case(Layout(tp=2), frozenset({"AllGather"}), with_experts_apart=False),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:7]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> str:
    return write_qwen3_next(tmp_path_factory.mktemp("Qwen3-Next"), tiny_model)


@pytest.fixture(scope="module")
def expected(model: str, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    tokens = transformers_tokens(model, prompts, NUM_TOKENS)
    assert len(set(tokens)) > 4  # not degenerate
    return tokens


def assert_frames(runs: list[SavedRun]) -> None:
    """The first TP rank of each replica sends its requests' tokens, all of them once."""
    for saved in runs:
        told = {name: told.tokens for name, told in saved.told.items()}
        assert told == (saved.outputs if saved.tp_rank == 0 else {})
        assert all(told.statuses[-1] == RequestStatus.FINISHED for told in saved.told.values())


@pytest.mark.parametrize("name", CASES)
def test_in_graphs_on_an_a3(
    model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    tmp_path: Path,
    name: str,
) -> None:
    case = CASES[name]
    splits = {} if case.split is None else {"": case.split}
    run = run_on_a3(tmp_path, {"": case.engine(model)}, prompts, NUM_TOKENS, DEADLINE_S, splits)[""]
    assert run.result.token_ids == expected
    assert_equals_transformers(model, prompts, run.result)
    assert_frames(run.saved)
    assert set(run.dispatches) == case.ways | {REPLAY}
    assert others(race_reports.take(), CAPTURE) == []
