# SPDX-License-Identifier: Apache-2.0
"""Frames of engines on vllm-ascend, on the emulator with its race checker; copies are counted below vLLM."""

from __future__ import annotations

import pytest

from emulator.findings import Findings
from tests.support.engines.graph_counts import GraphCounts
from tests.support.engines.upstream_races import CAPTURE, CORRECTED_COUNTS, others
from tests.support.reference import make_prompts, transformers_tokens
from tests.support.saved_output import SavedRun, next_instance, run_saved
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 16
LOGPROBS = 1  # the prompt with log-probabilities
# small steps, so that prompts are prefilled in chunks and requests join and leave the batch
ENGINE = {"max_num_batched_tokens": 64, "max_num_seqs": 6}
DEADLINE_S = 400


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:8]


@pytest.fixture(scope="module")
def expected(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> list[tuple[int, ...]]:
    return transformers_tokens(tiny_model, prompts, NUM_TOKENS)


def run(
    model: str,
    prompts: list[list[int]],
    layout: Layout,
    *,
    is_async: bool,
    instance: int | None,
    mode: str | None = None,
) -> list[SavedRun]:
    # sizes with gaps, so that most steps are smaller than the graph that replays them
    graphs = {"cudagraph_mode": mode, "cudagraph_capture_sizes": [6, 18]}
    case = EngineCase(
        model,
        layout,
        expert_parallel=layout.tp > 1,
        num_speculative_tokens=2,
        ascend_ext=None if instance is None else {"mtp_output": {"enabled": True, "instance": instance}},
        engine_args=ENGINE
        | {"async_scheduling": is_async}
        | ({} if mode is None else {"enforce_eager": False, "compilation_config": graphs}),
    )
    sampling: list[dict[str, object]] = [{"max_tokens": NUM_TOKENS} for _ in prompts]
    sampling[LOGPROBS]["logprobs"] = 2
    return run_saved(case, prompts, sampling, deadline_s=DEADLINE_S)


@pytest.mark.parametrize(
    ("is_async", "mode"),
    [(False, None), (True, None), (False, "PIECEWISE"), (True, "FULL_DECODE_ONLY")],
    ids=["sync", "async", "sync PIECEWISE", "async FULL_DECODE_ONLY"],
)
def test_frames_are_the_engines_tokens(
    tiny_model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    monkeypatch: pytest.MonkeyPatch,
    is_async: bool,
    mode: str | None,
) -> None:
    graphs = None if mode is None else GraphCounts(monkeypatch)
    instance = next_instance()
    sender, other = run(tiny_model, prompts, Layout(tp=2), is_async=is_async, instance=instance, mode=mode)
    assert graphs is None or graphs.replays >= NUM_TOKENS // 3 * 2
    for index, tokens in enumerate(expected):
        told = sender.told[str(index)]
        assert tuple(told.tokens) == tuple(sender.outputs[str(index)]) == tokens
        assert told.statuses[-1] == RequestStatus.FINISHED and told.num_drafts > 0
    assert len(sender.told[str(LOGPROBS)].topk) == NUM_TOKENS
    assert other.outputs == sender.outputs
    # one copy a step on the rank that sends, of what was packed; none on the other; none of theirs on either
    num_steps = sender.report["mtp_output"]["copies"]
    assert sender.copies == (0, num_steps) and num_steps > 0
    assert other.copies == (0, 0)
    known = [*([CORRECTED_COUNTS] if is_async else []), *([] if mode is None else CAPTURE)]
    assert others(race_reports.take(), known) == []


def test_without_it_every_rank_copies(tiny_model: str, prompts: list[list[int]], race_reports: Findings) -> None:
    """What is counted above is there to be counted: tokens, and log-probabilities in three pieces."""
    runs = run(tiny_model, prompts, Layout(tp=2), is_async=False, instance=None)
    assert min(run.copies.sampled for run in runs) > NUM_TOKENS // 3
    assert race_reports.take() == []
