# SPDX-License-Identifier: Apache-2.0
"""Runs engines on an emulated A3, in one process of their own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.engines.apart import A3_SOC, MOVE, REPLAY, call_apart, dispatches, served
from tests.support.saved_output import SavedRun, engine_result, run_saved
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine


@dataclass(frozen=True, slots=True)
class A3Run:
    """Holds an engine's result, how often all ranks together dispatched in each way, replayed a graph or moved an
    expert, and with `mtp_output` what each rank sent, and how often they did so after the warm-up."""

    result: EngineResult
    dispatches: Counter[str]
    saved: list[SavedRun]
    served: Counter[str]

    @property
    def ways(self) -> set[str]:
        """Returns how rows of requests went: in eager steps, and in replayed ones, by MC2 where there is any."""
        captured = {"MC2"} & set(self.dispatches) or set(self.dispatches)
        return (set(self.served) | (captured if self.served[REPLAY] else set())) - {REPLAY, MOVE}


def run_on_a3(
    folder: Path,
    cases: Mapping[str, EngineCase],
    prompts: list[list[int]],
    num_tokens: int | Mapping[str, int],
    deadline_s: float,
    splits: Mapping[str, Sequence[int]] | None = None,
    soc: str = A3_SOC,
) -> dict[str, A3Run]:
    """Runs all cases, greedily. Raises CalledProcessError when one of them fails.

    num_tokens: to generate, or by the case's name. deadline_s: for each case.
    splits: by the case's name, the prompts of each replica where they are not as even as possible.
    soc: another one than an A3.
    """
    lengths = dict.fromkeys(cases, num_tokens) if isinstance(num_tokens, int) else dict(num_tokens)
    given = (dict(cases), prompts, lengths, dict(splits or {}), dispatches(folder))
    runs: dict[str, A3Run]
    runs, _ = call_apart(
        folder,
        _run_all,
        *given,
        num_ranks=max(case.layout.num_ranks for case in cases.values()),
        soc=soc,
        compiles=False,  # each case says so itself
        deadline_s=deadline_s * len(cases),
    )
    return runs


def _run_all(
    cases: dict[str, EngineCase],
    prompts: list[list[int]],
    num_tokens: dict[str, int],
    splits: dict[str, Sequence[int]],
    log: Path,
    deadline_s: float,
) -> dict[str, A3Run]:
    runs = {}
    for name, case in cases.items():
        for of_these in (log, served(log)):
            of_these.write_text("")
        compiles = not case.engine_args.get("enforce_eager", True)
        os.environ["TORCHDYNAMO_DISABLE"] = "0" if compiles else "1"  # read anew at each call
        result, saved = _run(case, prompts, num_tokens[name], deadline_s / len(cases), splits.get(name))
        counts = (Counter(of_these.read_text().split()) for of_these in (log, served(log)))
        runs[name] = A3Run(result, next(counts), saved, next(counts))
    return runs


def _run(
    case: EngineCase, prompts: list[list[int]], num_tokens: int, deadline_s: float, split: Sequence[int] | None
) -> tuple[EngineResult, list[SavedRun]]:
    """Runs a case, with a reader a replica where it sends its output."""
    if "mtp_output" not in (case.ascend_ext or {}):
        return run_engine(case, prompts, max_tokens=num_tokens, deadline_s=deadline_s, split=split), []
    sampling = [{"max_tokens": num_tokens} for _ in prompts]
    saved = run_saved(case, prompts, sampling, deadline_s=deadline_s, split=split)
    return engine_result(case, saved), saved
