# SPDX-License-Identifier: Apache-2.0
"""Completes prompts once with each of several thresholds, in one engine on vllm-ascend.

Beside our own count, the emulator's HCCL counts every byte that any part of the process hands to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vllm_ascend_ext.tools.engine import EngineCase, even_split
from vllm_ascend_ext.tools.forked_ranks import Rank, run_ranks

NUM_TOKENS = 8
NEVER = 1 << 30
MANY = 40
OPERATIONS = ("HcclAllReduce", "HcclAllGather", "HcclReduceScatter")


@dataclass(frozen=True)
class Phase:
    """Holds what a rank saw of one threshold: its replica's tokens, our report, and the bytes handed to HCCL's
    operations."""

    tokens: list[tuple[int, ...]]
    report: dict[str, Any]
    sent: dict[str, int]

    @property
    def scatter(self) -> dict[str, Any]:
        return self.report["attn_scatter"]

    @property
    def ring_bytes(self) -> int:
        """Bytes that a rank of two sends by the ring algorithm: of a reduce-scatter, the other's half."""
        reduced, gathered, scattered = (self.sent[operation] for operation in OPERATIONS)
        return reduced + gathered + scattered // 2


def scattering(**settings: Any) -> dict[str, Any]:
    return {"attn_scatter": {"enabled": True, "min_tokens": 1, **settings}}


def run(
    case: EngineCase,
    prompts: list[list[int]],
    thresholds: Sequence[int | tuple[int, int]],
    *,
    split: Sequence[int] | None = None,
    deadline_s: float = 300,
) -> list[list[Phase]]:
    """Completes `prompts` once with each threshold, in one engine, the last of them alone: [rank][threshold].

    thresholds: rows of a step from which on it is ours; two numbers: up to which, too, with FlashComm v1.
    split: of the prompts but the last, those of each replica; the last is the first replica's.
    """
    counts = list(split or even_split(len(prompts) - 1, case.layout.dp))

    def job(rank: Rank) -> list[Phase]:
        import torch
        from vllm import LLM, SamplingParams

        from emulator.traffic import traffic

        begin = sum(counts[: rank.dp_rank])
        own = prompts[begin : begin + counts[rank.dp_rank]]
        llm = LLM(**case.llm_arguments())
        params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        phases = []
        for threshold in thresholds:
            llm.collective_rpc(_set, args=(threshold,))
            llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})
            before = {operation: traffic(operation) for operation in OPERATIONS}
            tokens = []
            for together in (own, prompts[-1:] if rank.dp_rank == 0 else []):
                given = [{"prompt_token_ids": prompt} for prompt in together]
                outputs = llm.generate(given, params, use_tqdm=False)
                tokens += [tuple(output.outputs[0].token_ids) for output in outputs]
            torch.npu.synchronize()
            sent = {operation: traffic(operation).since(before[operation]).bytes for operation in OPERATIONS}
            phases.append(Phase(tokens, llm.collective_rpc("ascend_ext_report")[0], sent))
        return phases

    return run_ranks(job, case.layout, deadline_s=deadline_s)


def _set(worker: Any, threshold: int | tuple[int, int]) -> None:
    model = worker.bound_features["attn_scatter"].model
    if isinstance(threshold, tuple):
        model.min_tokens, model.max_tokens = threshold
    else:
        model.min_tokens = threshold


def all_tokens(ranks: list[list[Phase]], threshold: int, tp: int = 2) -> list[tuple[int, ...]]:
    """Returns the tokens of all prompts in their order, of the threshold of that index."""
    first, *others = (phases[threshold].tokens for phases in ranks[::tp])
    return [*first[:-1], *chain(*others), first[-1]]


def check_bytes(plain: Phase, scattered: Phase) -> None:
    """What HCCL was handed is what was foretold, and what our collectives count, to the byte; the logits' gathers,
    which are not ours, are alike in both. Every step is scattered, so the layers make no other sum."""
    ours = scattered.report["traffic"]["attn_scatter"]
    assert sum(counts["bytes"] for counts in ours.values()) == scattered.scatter["predicted_bytes"]
    logits = plain.sent["HcclAllGather"]
    assert scattered.ring_bytes - logits == scattered.scatter["predicted_bytes"]


def check_own_counts(scattered: Phase, *, tp: int = 2, replicas_sum: bool = False) -> None:
    """As `check_bytes`, where layers that are not scattered send too: theirs reduce-scatter nothing, but for
    replicas that sum what their experts give (`replicas_sum`). tp: ranks of a replica."""
    ours = scattered.report["traffic"]["attn_scatter"]
    assert sum(counts["bytes"] for counts in ours.values()) == scattered.scatter["predicted_bytes"] > 0
    by_hccl = scattered.sent["HcclReduceScatter"] * (tp - 1) // tp
    by_us = ours["reduce_scatter_into"]["bytes"]
    assert by_hccl > by_us > 0 if replicas_sum else by_hccl == by_us
