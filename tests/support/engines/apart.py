# SPDX-License-Identifier: Apache-2.0
"""Calls a function that runs engines in a process of its own, which chooses its SoC and number of NPUs when it
starts.

How each MoE layer's tokens were sent is counted there; vllm-ascend chooses that by the number of a step's tokens.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import quantised
from tests.support.engines import sparse
from tests.support.saved_output import WARM
from vllm_ascend_ext.integration.upstream.versions import PAIRS, installed_pair

A2_SOC, A3_SOC = "Ascend910B1", "Ascend910_9391"
REPLAY = "replay"  # of a captured graph, whose dispatches were counted at the capture
MOVE = "move"  # of an expert into a place by vllm-ascend's EPLB
DISPATCHERS = ("MC2", "All2AllV", "AllGather")  # vllm-ascend's TokenDispatcherWith...


def call_apart(
    folder: Path,
    function: Callable[..., Any],
    *arguments: Any,
    num_ranks: int,
    soc: str | None,
    compiles: bool,
    deadline_s: float,
    **named: Any,
) -> tuple[Any, Counter[str]]:
    """Returns what the function, of a module, returns, and how often its ranks together dispatched in each way,
    replayed a graph or moved an expert. Raises CalledProcessError when it raises.

    soc: of the emulated NPUs, None for the emulator's own choice. compiles: whether its engines compile models,
    which scripts/env.sh turns off.
    """
    asked, answered = folder / "asked", folder / "answered"
    asked.write_bytes(pickle.dumps((function, arguments, named | {"deadline_s": deadline_s})))
    environment = os.environ | {
        "EMULATOR_DEVICES": str(num_ranks),
        "OMP_NUM_THREADS": "1",
        "VLLM_DISABLE_COMPILE_CACHE": "1",  # it would hide what has to be compiled
        # without it vLLM 0.30 takes the mere name `update` for a changed buffer (compilation/wrapper.py:250), and
        # vllm-ascend's forward of DeepSeek has it in a branch for pipelines (patch/worker/patch_deepseek_v2.py)
        "VLLM_USE_BYTECODE_HOOK": "1" if installed_pair() == PAIRS[0] else "0",
    }
    if soc is not None:
        environment["EMULATOR_SOC"] = soc
    if compiles:
        environment.pop("TORCHDYNAMO_DISABLE", None)
    command = [sys.executable, "-m", "tests.support.engines.apart", str(asked), str(answered)]
    subprocess.run(command, env=environment, check=True, timeout=60 + deadline_s)
    answer: tuple[Any, Counter[str]] = pickle.loads(answered.read_bytes())
    return answer


def dispatches(folder: Path) -> Path:
    """Returns the file of what is counted while `call_apart` runs a function with this folder."""
    return folder / "dispatches"


def served(log: Path) -> Path:
    """Returns the file of what of it is counted after the warm-up."""
    return log.with_name("served")


def count_dispatches(log: Path) -> None:
    """Lets every dispatch and replay of every rank, which are forks of this process, append its kind to a file."""
    import torch
    from vllm_ascend.eplb.adaptor.vllm_adaptor import VllmEplbAdaptor
    from vllm_ascend.ops.fused_moe import token_dispatcher
    from vllm_ascend.ops.fused_moe.moe_comm_method import FusedMC2CommImpl

    def counted(kind: str, dispatch: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            for of_these in (log, served(log)) if WARM in os.environ else (log,):
                with of_these.open("a") as file:
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


def main(asked: Path, answered: Path) -> None:
    """Does what `call_apart` has written, and writes the answer."""
    from vllm_ascend_ext.tools.preload import preload

    function, arguments, named = pickle.loads(asked.read_bytes())
    preload()
    quantised.allow_float32()
    sparse.allow_float32()
    log = dispatches(asked.parent)
    for of_these in (log, served(log)):
        of_these.write_text("")
    count_dispatches(log)
    answer = function(*arguments, **named)
    answered.write_bytes(pickle.dumps((answer, Counter(log.read_text().split()))))


if __name__ == "__main__":
    # by its own name, so that what is pickled is not __main__'s
    from tests.support.engines import apart

    apart.main(Path(sys.argv[1]), Path(sys.argv[2]))
