# SPDX-License-Identifier: Apache-2.0
"""Runs one engine case: what to serve on which layout with which features, and the job that each forked rank
runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks


@dataclass(frozen=True, slots=True)
class EngineCase:
    """Describes an engine configuration.

    num_speculative_tokens: drafts a step from the model's MTP layers; 0 turns MTP off.
    ascend_ext: the `additional_config["ascend_ext"]` section; None leaves it out.
    engine_args: further arguments of `vllm.LLM`.
    """

    model: str
    layout: Layout = Layout()
    expert_parallel: bool = False
    num_speculative_tokens: int = 0
    ascend_ext: dict[str, Any] | None = None
    dtype: str = "float32"
    engine_args: dict[str, Any] = field(default_factory=dict)

    def llm_arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of `vllm.LLM` for a rank of this case."""
        arguments: dict[str, Any] = {
            "model": self.model,
            "dtype": self.dtype,
            "seed": 0,
            "tensor_parallel_size": self.layout.tp,
            "pipeline_parallel_size": self.layout.pp,
            "data_parallel_size": self.layout.dp,
            "enable_expert_parallel": self.expert_parallel,
            "distributed_executor_backend": "external_launcher",
            "enforce_eager": True,
            "max_model_len": 512,
            "max_num_seqs": 32,
            "kv_cache_memory_bytes": 64 << 20,
            "disable_log_stats": False,
            "additional_config": {} if self.ascend_ext is None else {"ascend_ext": self.ascend_ext},
        }
        if self.num_speculative_tokens:
            arguments["speculative_config"] = {
                "method": "mtp",
                "num_speculative_tokens": self.num_speculative_tokens,
            }
        return arguments | self.engine_args


@dataclass(frozen=True, slots=True)
class Completion:
    """Holds one prompt's result. index: its place among all prompts of the run."""

    index: int
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class RankResult:
    """Holds what one rank returns: its replica's completions, times, metrics and our report."""

    tp_rank: int
    completions: tuple[Completion, ...]
    start_seconds: float
    generate_seconds: float
    metrics: dict[str, Any]
    report: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class EngineResult:
    """Holds all ranks' results of one engine run."""

    case: EngineCase
    ranks: tuple[RankResult, ...]

    @property
    def completions(self) -> list[Completion]:
        """Returns the completions of all replicas in prompt order."""
        ours = (c for rank in self.ranks if rank.tp_rank == 0 for c in rank.completions)
        return sorted(ours, key=lambda completion: completion.index)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        return [completion.token_ids for completion in self.completions]

    @property
    def generate_seconds(self) -> float:
        return max(rank.generate_seconds for rank in self.ranks)

    @property
    def num_generated_tokens(self) -> int:
        return sum(len(tokens) for tokens in self.token_ids)


def run_engine(
    case: EngineCase,
    prompts: Sequence[str] | Sequence[list[int]],
    *,
    max_tokens: int,
    deadline_s: float,
    sampling: dict[str, Any] | None = None,
    split: Sequence[int] | None = None,
    on_delta: Callable[[int, str, int], None] | None = None,
) -> EngineResult:
    """Starts the engine of `case`, completes `prompts` greedily, stops it and returns what every rank saw.

    split: prompts per DP replica (sums to len(prompts)); by default as even as possible.
    on_delta(index, text, num_tokens): called as text of prompt `index` arrives.
    Raises RankError when a rank raises, dies or misses the deadline.
    """
    counts = list(split) if split is not None else even_split(len(prompts), case.layout.dp)
    if len(counts) != case.layout.dp or sum(counts) != len(prompts):
        raise ValueError(f"split {counts} does not divide {len(prompts)} prompts among {case.layout.dp} replicas")

    def job(rank: Rank) -> RankResult:
        begin = sum(counts[: rank.dp_rank])
        own = list(range(begin, begin + counts[rank.dp_rank]))
        return _generate(case, rank, own, [prompts[i] for i in own], max_tokens, sampling or {})

    def on_event(rank: int, value: Any) -> None:
        if on_delta is not None:
            on_delta(*value)

    ranks = run_ranks(job, case.layout, deadline_s=deadline_s, on_event=on_event)
    return EngineResult(case, tuple(ranks))


def even_split(num_prompts: int, num_replicas: int) -> list[int]:
    """Returns the number of prompts per replica, the first ones taking the remainder."""
    base, rest = divmod(num_prompts, num_replicas)
    return [base + (replica < rest) for replica in range(num_replicas)]


def _generate(
    case: EngineCase,
    rank: Rank,
    indices: list[int],
    prompts: list[Any],
    max_tokens: int,
    sampling: dict[str, Any],
) -> RankResult:
    """Runs a rank: builds the engine, steps it until all requests are finished, reads metrics and report."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    started = time.perf_counter()
    llm = LLM(**case.llm_arguments())
    start_seconds = time.perf_counter() - started
    options = {"temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": True, "seed": 0} | sampling
    params = SamplingParams(output_kind=RequestOutputKind.DELTA, **options)
    if case.ascend_ext is not None:
        llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})  # warm-up does not count
    started = time.perf_counter()
    for index, prompt in zip(indices, prompts, strict=True):
        request = prompt if isinstance(prompt, str) else {"prompt_token_ids": list(prompt)}
        llm.llm_engine.add_request(str(index), request, params)
    tokens: dict[int, list[int]] = {index: [] for index in indices}
    texts: dict[int, str] = dict.fromkeys(indices, "")
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            index, delta = int(output.request_id), output.outputs[0]
            tokens[index].extend(delta.token_ids)
            texts[index] += delta.text
            if rank.tp_rank == rank.stage == 0:
                rank.emit((index, delta.text, len(delta.token_ids)))
    generate_seconds = time.perf_counter() - started
    # all stages see the tokens; the first one tells
    completions = tuple(Completion(i, tuple(tokens[i]), texts[i]) for i in indices if rank.stage == 0)
    report = llm.collective_rpc("ascend_ext_report")[0] if case.ascend_ext is not None else None
    return RankResult(
        tp_rank=rank.tp_rank,
        completions=completions,
        start_seconds=start_seconds,
        generate_seconds=generate_seconds,
        metrics=_metrics(llm),
        report=report,
    )


def _metrics(llm: Any) -> dict[str, Any]:
    """Returns vLLM's counters and gauges by name (vectors as lists)."""
    values: dict[str, Any] = {}
    for metric in llm.get_metrics():
        if hasattr(metric, "value"):
            values[metric.name] = metric.value
        elif hasattr(metric, "values"):
            values[metric.name] = list(metric.values)
    return values
