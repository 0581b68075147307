# SPDX-License-Identifier: Apache-2.0
"""Runs one engine whose ranks are worker processes of vLLM's own executor, with a reader of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.engines.told_frames import FrameReader, Told, read_frames
from tests.support.saved_output import forget_warm_up
from vllm_ascend_ext.tools.engine import Completion, EngineCase, EngineResult, RankResult
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks


@dataclass
class WorkersRun:
    """Holds one engine's run. outputs: its tokens by prompt; told: by prompt; reports: of each worker."""

    outputs: dict[str, list[int]]
    told: dict[str, Told]
    reports: list[dict[str, Any]]

    def result(self, case: EngineCase) -> EngineResult:
        """Returns what `run_engine` would have of the ranks, but texts, times and metrics."""
        completions = tuple(Completion(int(index), tuple(tokens), "") for index, tokens in self.outputs.items())
        ranks = (
            RankResult(rank, completions if rank == 0 else (), 0.0, 0.0, {}, report)
            for rank, report in enumerate(self.reports)
        )
        return EngineResult(case, tuple(ranks))


def run_in_workers(
    case: EngineCase, prompts: Sequence[list[int]], sampling: Sequence[dict[str, Any]], *, deadline_s: float
) -> WorkersRun:
    """Runs the prompts on one replica, and ends the engine."""

    def job(rank: Rank) -> WorkersRun:
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        llm = LLM(**(case.llm_arguments() | {"distributed_executor_backend": "mp"}))
        engine = llm.llm_engine
        assert case.ascend_ext is not None
        forget_warm_up(llm, case)
        reader = FrameReader(case.ascend_ext["mtp_output"]["instance"], 0, "")
        outputs: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
        for index, prompt in enumerate(prompts):
            options = {"temperature": 0.0, "ignore_eos": True, "seed": 0} | sampling[index]
            params = SamplingParams(output_kind=RequestOutputKind.DELTA, **options)
            engine.add_request(str(index), {"prompt_token_ids": list(prompt)}, params)
        while engine.has_unfinished_requests():
            for result in engine.step():
                outputs[result.request_id].extend(result.outputs[0].token_ids)
        reports = llm.collective_rpc("ascend_ext_report")
        engine.engine_core.shutdown()
        return WorkersRun(outputs, read_frames(reader.finish()), reports)

    return run_ranks(job, Layout(), deadline_s=deadline_s)[0]
