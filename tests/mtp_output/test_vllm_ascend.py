# SPDX-License-Identifier: Apache-2.0
"""Frames of engines on vllm-ascend, on the emulator with its race checker; copies are counted below vLLM."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from emulator.findings import Findings
from tests.pairs.marks import on_first_pair
from tests.support.engines.graph_counts import GraphCounts
from tests.support.engines.upstream_races import CORRECTED_COUNTS, IN_GRAPHS, others
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, transformers_tokens
from tests.support.saved_output import SavedRun, next_instance, run_saved
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.mtp_output.step.device_copy import PackedRecords, RecordCopier, SampledTensors
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


@dataclass(frozen=True)
class Served:
    """Holds the runs of an engine's ranks, and how many graphs they replayed together."""

    runs: list[SavedRun]
    replays: int


def serve(model: str, prompts: list[list[int]], *, is_async: bool, mode: str | None, is_on: bool = True) -> Served:
    instance = next_instance() if is_on else None
    with pytest.MonkeyPatch.context() as monkeypatch:
        graphs = None if mode is None else GraphCounts(monkeypatch)
        runs = run(model, prompts, Layout(tp=2), is_async=is_async, instance=instance, mode=mode)
        return Served(runs, 0 if graphs is None else graphs.replays)


@pytest.fixture(scope="module")
def served(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> Served:
    """An engine as it is served."""
    return serve(tiny_model, prompts, is_async=True, mode="FULL_DECODE_ONLY")


@pytest.fixture(scope="module")
def theirs(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> SavedRun:
    """The rank that would send, of the same without MTP output."""
    return serve(tiny_model, prompts, is_async=True, mode="FULL_DECODE_ONLY", is_on=False).runs[0]


@pytest.mark.parametrize(
    ("is_async", "mode"),
    [
        (False, None),
        (True, None),
        pytest.param(False, "PIECEWISE", marks=on_first_pair),
        pytest.param(True, "FULL_DECODE_ONLY", marks=on_first_pair),
    ],
    ids=["sync", "async", "sync PIECEWISE", "async FULL_DECODE_ONLY"],
)
def test_frames_are_the_engines_tokens(
    tiny_model: str,
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    request: pytest.FixtureRequest,
    is_async: bool,
    mode: str | None,
) -> None:
    if is_async and mode is not None:
        served = request.getfixturevalue("served")
    else:
        served = serve(tiny_model, prompts, is_async=is_async, mode=mode)
    sender, other = served.runs
    assert mode is None or served.replays >= NUM_TOKENS // 3 * 2
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
    known = [*([CORRECTED_COUNTS] if is_async else []), *([] if mode is None else IN_GRAPHS)]
    assert others(race_reports.take(), known) == []


def check_traffic(ours: SavedRun, theirs: SavedRun) -> None:
    """One copy a step takes the place of those of what was sampled; no other copy, and no wait for the device."""
    assert theirs.copies.sampled > NUM_TOKENS // 3  # what is counted is there to be counted
    assert ours.copies.sampled == 0 and ours.copies.packed == ours.report["mtp_output"]["copies"] > 0
    assert ours.traffic.copies - ours.copies.packed == theirs.traffic.copies - theirs.copies.sampled
    assert ours.traffic.waits <= theirs.traffic.waits


@on_first_pair
def test_it_adds_one_copy_a_step_and_no_wait(served: Served, theirs: SavedRun, race_reports: Findings) -> None:
    """In graphs, too."""
    check_traffic(served.runs[0], theirs)
    race_reports.take()  # the test above names them


@long_table
@on_first_pair
@pytest.mark.parametrize(("planted", "found"), [("a copy", "copies"), ("a wait", "waits")])
def test_what_is_added_is_found(
    tiny_model: str,
    prompts: list[list[int]],
    theirs: SavedRun,
    race_reports: Findings,
    monkeypatch: pytest.MonkeyPatch,
    planted: str,
    found: str,
) -> None:
    plant(monkeypatch, planted)
    ours = serve(tiny_model, prompts, is_async=True, mode="FULL_DECODE_ONLY").runs[0]
    with pytest.raises(AssertionError, match=found):
        check_traffic(ours, theirs)
    race_reports.take()


def plant(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Lets each step do `what` once more; ranks are forks of this process."""
    launch = RecordCopier.launch

    def planted(self: RecordCopier, sampled: SampledTensors) -> PackedRecords:
        records = launch(self, sampled)
        if what == "a copy":
            sampled.token_ids_BS.clone().to("cpu", non_blocking=True)
        else:
            torch.npu.current_stream().synchronize()
        return records

    monkeypatch.setattr(RecordCopier, "launch", planted)
