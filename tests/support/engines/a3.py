# SPDX-License-Identifier: Apache-2.0
"""Runs engines on an emulated A3, in one process of their own, for a process chooses its SoC when it starts.

How each MoE layer's tokens were sent is counted: vllm-ascend chooses that by the number of tokens of the step.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.quantised import allow_float32
from tests.support.saved_output import SavedRun, engine_result, run_saved
from vllm_ascend_ext.tools.engine import EngineCase, EngineResult, run_engine

SOC = "Ascend910_9391"
REPLAY = "replay"  # of a captured graph, whose dispatches were counted at the capture
MOVE = "move"  # of an expert into a place by vllm-ascend's EPLB
DISPATCHERS = ("MC2", "All2AllV", "AllGather")  # vllm-ascend's TokenDispatcherWith...


@dataclass(frozen=True, slots=True)
class A3Run:
    """Holds an engine's result, how often all ranks together dispatched in each way, replayed a graph or moved an
    expert, and with `mtp_output` what each rank sent."""

    result: EngineResult
    dispatches: Counter[str]
    saved: list[SavedRun]


def run_on_a3(
    folder: Path,
    cases: Mapping[str, EngineCase],
    prompts: list[list[int]],
    num_tokens: int,
    deadline_s: float,
    splits: Mapping[str, Sequence[int]] | None = None,
    soc: str = SOC,
) -> dict[str, A3Run]:
    """Runs all cases, greedily. Raises CalledProcessError when one of them fails.

    splits: by the case's name, the prompts of each replica where they are not as even as possible.
    soc: another one than an A3.
    """
    asked, answered = folder / "cases", folder / "runs"
    asked.write_bytes(pickle.dumps((dict(cases), prompts, num_tokens, deadline_s, dict(splits or {}))))
    num_ranks = max(case.layout.num_ranks for case in cases.values())
    environment = os.environ | {"EMULATOR_SOC": soc, "EMULATOR_DEVICES": str(num_ranks), "OMP_NUM_THREADS": "1"}
    environment["VLLM_DISABLE_COMPILE_CACHE"] = "1"  # it would hide what has to be compiled
    command = [sys.executable, "-m", "tests.support.engines.a3", str(asked), str(answered)]
    subprocess.run(command, env=environment, check=True, timeout=60 + deadline_s * len(cases))
    runs: dict[str, A3Run] = pickle.loads(answered.read_bytes())
    return runs


def count_dispatches(log: Path) -> None:
    """Lets every dispatch and replay of every rank, which are forks of this process, append its kind to a file."""
    import torch
    from vllm_ascend.eplb.adaptor.vllm_adaptor import VllmEplbAdaptor
    from vllm_ascend.ops.fused_moe import token_dispatcher
    from vllm_ascend.ops.fused_moe.moe_comm_method import FusedMC2CommImpl

    def counted(kind: str, dispatch: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with log.open("a") as file:
                file.write(f"{kind}\n")
            return dispatch(*arguments, **named)

        return call

    for kind in DISPATCHERS:
        dispatcher = getattr(token_dispatcher, f"TokenDispatcherWith{kind}")
        dispatcher.token_dispatch = counted(kind, dispatcher.token_dispatch)
    graph = torch.npu.NPUGraph
    graph.replay = counted(REPLAY, graph.replay)
    fused: Any = FusedMC2CommImpl
    fused.fused_experts = counted("FusedMC2", fused.fused_experts)
    adaptor: Any = VllmEplbAdaptor
    adaptor.do_update_expert_weight = counted(MOVE, adaptor.do_update_expert_weight)


def _run(
    case: EngineCase, prompts: list[list[int]], num_tokens: int, deadline_s: float, split: Sequence[int] | None
) -> tuple[EngineResult, list[SavedRun]]:
    """Runs a case, with a reader a replica where it sends its output."""
    if "mtp_output" not in (case.ascend_ext or {}):
        return run_engine(case, prompts, max_tokens=num_tokens, deadline_s=deadline_s, split=split), []
    sampling = [{"max_tokens": num_tokens} for _ in prompts]
    saved = run_saved(case, prompts, sampling, deadline_s=deadline_s, split=split)
    return engine_result(case, saved), saved


def main(asked: Path, answered: Path) -> None:
    """Runs the cases that `run_on_a3` has written, and writes their runs."""
    from vllm_ascend_ext.tools import forked_ranks

    cases, prompts, num_tokens, deadline_s, splits = pickle.loads(asked.read_bytes())
    forked_ranks.preload()
    allow_float32()
    log = asked.with_name("dispatches")
    count_dispatches(log)
    runs = {}
    for name, case in cases.items():
        log.write_text("")
        compiles = not case.engine_args.get("enforce_eager", True)
        os.environ["TORCHDYNAMO_DISABLE"] = "0" if compiles else "1"  # read anew at each call
        result, saved = _run(case, prompts, num_tokens, deadline_s, splits.get(name))
        runs[name] = A3Run(result, Counter(log.read_text().split()), saved)
    answered.write_bytes(pickle.dumps(runs))


if __name__ == "__main__":
    # by its own name, so that what is pickled is not __main__'s
    from tests.support.engines import a3

    a3.main(Path(sys.argv[1]), Path(sys.argv[2]))
