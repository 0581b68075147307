# SPDX-License-Identifier: Apache-2.0
"""Calls a function that runs engines in a process of its own, which chooses its SoC and number of NPUs when it
starts."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.engines.a3 import SOC, count_dispatches
from tests.support.quantised import allow_float32


def call_apart(
    folder: Path,
    function: Callable[..., Any],
    *arguments: Any,
    num_ranks: int,
    on_a3: bool,
    compiles: bool,
    deadline_s: float,
    **named: Any,
) -> tuple[Any, Counter[str]]:
    """Returns what the function, of a module, returns, and how often its ranks together dispatched
    in each way or replayed a graph."""
    asked, answered = folder / "asked", folder / "answered"
    asked.write_bytes(pickle.dumps((function, arguments, named | {"deadline_s": deadline_s})))
    environment = os.environ | {
        "EMULATOR_DEVICES": str(num_ranks),
        "OMP_NUM_THREADS": "1",
        "VLLM_DISABLE_COMPILE_CACHE": "1",
    }
    if on_a3:
        environment["EMULATOR_SOC"] = SOC
    if compiles:
        environment.pop("TORCHDYNAMO_DISABLE", None)
    command = [sys.executable, "-m", "tests.support.engines.apart", str(asked), str(answered)]
    subprocess.run(command, env=environment, check=True, timeout=60 + deadline_s)
    answer: tuple[Any, Counter[str]] = pickle.loads(answered.read_bytes())
    return answer


def main(asked: Path, answered: Path) -> None:
    """Does what `call_apart` has written, and writes the answer."""
    from vllm_ascend_ext.tools import forked_ranks

    function, arguments, named = pickle.loads(asked.read_bytes())
    forked_ranks.preload()
    allow_float32()
    log = asked.with_name("dispatches")
    log.write_text("")
    count_dispatches(log)
    answer = function(*arguments, **named)
    answered.write_bytes(pickle.dumps((answer, Counter(log.read_text().split()))))


if __name__ == "__main__":
    # by its own name, so that what is pickled is not __main__'s
    from tests.support.engines import apart

    apart.main(Path(sys.argv[1]), Path(sys.argv[2]))
