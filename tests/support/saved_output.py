# SPDX-License-Identifier: Apache-2.0
"""Runs one engine with readers of its frames: what each rank puts out, what it copied, and what the frames say."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.device_copies import CopyCounts, DeviceCopies, DeviceTraffic
from tests.support.engines.told_frames import FrameReader, Told, read_frames
from vllm_ascend_ext.integration.errors import MidStepResetError
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.tools.engine import Completion, EngineCase, EngineResult, RankResult, even_split
from vllm_ascend_ext.tools.forked_ranks import Rank, run_ranks

_instances = itertools.count(os.getpid() << 8)


def next_instance() -> int:
    """Returns the number of an engine, unlike any other of this machine's test runs."""
    return next(_instances) % 2**32


@dataclass
class SavedRun:
    """Holds the run of one rank. outputs: the engine's tokens by prompt; told: by prompt; report: the worker's;
    num_rows and num_rows_of_requests: what the scheduler has scheduled, tokens and requests, over all steps."""

    rank: int
    tp_rank: int
    outputs: dict[str, list[int]]
    logprobs: dict[str, list[dict[int, float]]]
    told: dict[str, Told]
    num_frames: int
    report: dict[str, Any]
    metrics: dict[str, float]
    num_preempted: int
    copies: CopyCounts
    num_rows: int
    num_rows_of_requests: int
    traffic: DeviceTraffic


def run_saved(
    case: EngineCase,
    prompts: Sequence[list[int]],
    sampling: Sequence[dict[str, Any]],
    *,
    deadline_s: float,
    aborts: dict[int, int] | None = None,
    reset_at: int | None = None,
    split: Sequence[int] | None = None,
) -> list[SavedRun]:
    """Runs the prompts, with one reader a replica, and ends the engine.

    sampling: of each prompt; aborts: prompt → engine step after which it is aborted; reset_at: step after which
    the prefix cache is reset, which preempts all that runs, or, under asynchronous scheduling, is refused.
    """
    counts = list(split) if split is not None else even_split(len(prompts), case.layout.dp)

    def job(rank: Rank) -> SavedRun:
        begin = sum(counts[: rank.dp_rank])
        indices = range(begin, begin + counts[rank.dp_rank])
        return _run(case, rank, indices, prompts, sampling, aborts or {}, reset_at)

    return run_ranks(job, case.layout, deadline_s=deadline_s)


def assert_frames_are_the_tokens(runs: Sequence[SavedRun]) -> None:
    """The first TP rank of each replica tells the tokens of each of its requests once, and as the last its end."""
    for run in runs:
        assert {name: told.tokens for name, told in run.told.items()} == (run.outputs if run.tp_rank == 0 else {})
        for told in run.told.values():
            assert told.statuses[-1] == RequestStatus.FINISHED
            assert told.statuses.count(RequestStatus.FINISHED) == 1


def engine_result(case: EngineCase, runs: Sequence[SavedRun]) -> EngineResult:
    """Returns what `run_engine` would have, but texts and times."""
    num_stages = case.layout.pp
    ranks = (
        RankResult(
            run.tp_rank,
            # all stages see the tokens; the first one tells
            tuple(
                Completion(int(index), tuple(tokens), "")
                for index, tokens in run.outputs.items()
                if run.rank // case.layout.tp % num_stages == 0
            ),
            0.0,
            0.0,
            run.metrics,
            run.report,
        )
        for run in runs
    )
    return EngineResult(case, tuple(ranks))


def _reader_of(case: EngineCase, rank: Rank) -> FrameReader | None:
    """Returns a reader of the frames that this rank sends, or None for a rank that sends none."""
    output = (case.ascend_ext or {}).get("mtp_output", {})
    if not output.get("enabled") or rank.tp_rank != 0 or rank.stage != case.layout.pp - 1:
        return None
    return FrameReader(output["instance"], rank.dp_rank, output.get("endpoint", ""))


def forget_warm_up(llm: Any, case: EngineCase) -> None:
    """Forgets the expert load of all workers so far."""
    if "eplb_load" in (case.ascend_ext or {}):
        llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})


def _record_schedules(scheduler: Any) -> list[dict[str, int]]:
    """Returns a list that grows by the rows of each request of each step."""
    scheduled: list[dict[str, int]] = []
    schedule = scheduler.schedule

    def recorded(*arguments: Any, **named: Any) -> Any:
        output = schedule(*arguments, **named)
        scheduled.append(dict(output.num_scheduled_tokens))
        return output

    scheduler.schedule = recorded
    return scheduled


def _take(
    results: Sequence[Any], outputs: dict[str, list[int]], logprobs: dict[str, list[dict[int, float]]]
) -> None:
    """Adds what a step has brought to what came before, by the request's name."""
    for result in results:
        delta = result.outputs[0]
        outputs[result.request_id].extend(delta.token_ids)
        for entry in delta.logprobs or ():
            logprobs[result.request_id].append({token: value.logprob for token, value in entry.items()})


def _add_requests(
    engine: Any, indices: range, prompts: Sequence[list[int]], sampling: Sequence[dict[str, Any]]
) -> None:
    """Adds this rank's prompts to the engine; each result tells what came since the last."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for index in indices:
        options = {"temperature": 0.0, "ignore_eos": True, "seed": 0} | sampling[index]
        params = SamplingParams(output_kind=RequestOutputKind.DELTA, **options)
        engine.add_request(str(index), {"prompt_token_ids": list(prompts[index])}, params)


def _tell_the_last_ends(engine: Any) -> None:
    """Lets the scheduler tell its workers who has ended; its `has_requests` goes on counting whom it sent back.

    Those steps have passes where there are replicas, and one that has nothing to tell runs a dummy pass with them.
    """
    from vllm.config import ParallelConfig

    core, group = engine.engine_core.engine_core, engine.dp_group
    scheduler = core.scheduler
    while True:
        is_left = bool(scheduler.has_unfinished_requests() or scheduler.finished_req_ids)
        if not (is_left if group is None else ParallelConfig.has_unfinished_dp(group, is_left)):
            return
        if is_left:
            core.step_fn()
        else:
            core.execute_dummy_batch()


def _reset(engine: Any, case: EngineCase) -> None:
    """Preempts all that runs, or, where tokens are on their way, sees that this is refused."""
    if not (case.engine_args or {}).get("async_scheduling"):
        assert engine.reset_prefix_cache(reset_running_requests=True)
        return
    with pytest.raises(MidStepResetError, match="pause generation first"):
        engine.reset_prefix_cache(reset_running_requests=True)


def _run(
    case: EngineCase,
    rank: Rank,
    indices: range,
    prompts: Sequence[list[int]],
    sampling: Sequence[dict[str, Any]],
    aborts: dict[int, int],
    reset_at: int | None,
) -> SavedRun:
    from vllm import LLM

    llm = LLM(**case.llm_arguments())
    engine = llm.llm_engine
    core = engine.engine_core.engine_core
    copies = DeviceCopies(core.model_executor.driver_worker.worker.model_runner)
    forget_warm_up(llm, case)
    scheduled = _record_schedules(core.scheduler)
    reader = _reader_of(case, rank)
    _add_requests(engine, indices, prompts, sampling)
    outputs: dict[str, list[int]] = {str(index): [] for index in indices}
    logprobs: dict[str, list[dict[int, float]]] = {str(index): [] for index in indices}
    step = 0
    while engine.has_unfinished_requests():
        with copies:
            results = engine.step()
        _take(results, outputs, logprobs)
        step += 1
        if step == reset_at:
            _reset(engine, case)
        engine.abort_request([str(index) for index, at in aborts.items() if at == step and index in indices])
    _tell_the_last_ends(engine)
    report = llm.collective_rpc("ascend_ext_report")[0] if case.ascend_ext is not None else {}
    metrics = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    engine.engine_core.shutdown()
    frames = [] if reader is None else reader.finish()
    return SavedRun(
        rank.rank,
        rank.tp_rank,
        outputs,
        logprobs,
        read_frames(frames),
        len(frames),
        report,
        metrics,
        int(metrics.get("vllm:num_preemptions", 0)),
        copies.result(),
        sum(sum(rows.values()) for rows in scheduled),
        sum(len(rows) for rows in scheduled),
        copies.traffic(),
    )
