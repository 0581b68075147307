# SPDX-License-Identifier: Apache-2.0
"""Measures what the plug-in adds to the start of an engine that does not configure it.

Each start is a process of its own: the imports, the engine and its first token. Starts with and without the entry
point `ascend_ext` take turns, in the order A B, B A, ..., and each is compared with its neighbour; the first pair
is not counted. What the plug-in's own entry point and its hook in the configuration take is printed, too: it is
far below what starts of the same program differ by. The CPU platform is ours and on in both, because vLLM has none
of its own there.

    python benchmarks/startup.py --model tests/assets/tiny-deepseek
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from report import print_machine, spread

PLATFORM = "ascend_ext_cpu"
WITHOUT, WITH = "without the plug-in", "with the plug-in"
PLUGINS = {WITHOUT: PLATFORM, WITH: f"{PLATFORM},ascend_ext"}
DEADLINE_S = 600
START = """
import json, sys, time
from vllm_ascend_ext.integration.startup import plugin
own = 0.0
def timed(function):
    def call(*arguments):
        global own
        begun = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            own += time.perf_counter() - begun
    return call
def register(register=plugin.register):
    register()
    from vllm_ascend_ext.integration.startup import activation
    activation.configure = timed(activation.configure)
plugin.register = timed(register)
import vllm
llm = vllm.LLM(**json.loads(sys.argv[1]))
llm.generate([{"prompt_token_ids": [5, 17, 42]}], vllm.SamplingParams(max_tokens=1), use_tqdm=False)
print("ascend_ext", "vllm_ascend_ext.integration.startup.activation" in sys.modules, own)
"""


def start(variant: str, arguments: dict[str, object]) -> tuple[float, float, float]:
    """Returns the seconds of one start: by the clock, of the processor, and those of them that the plug-in takes.

    Raises RuntimeError when the engine fails or has the other plug-ins.
    """
    environment = {**os.environ, "VLLM_PLUGINS": PLUGINS[variant], "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    began, used = time.perf_counter(), used_s()
    done = subprocess.run(
        [sys.executable, "-c", START, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    seconds = time.perf_counter() - began, used_s() - used
    told = f"ascend_ext {variant == WITH} "
    if done.returncode or told not in done.stdout:
        raise RuntimeError(f"{variant}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return *seconds, float(done.stdout.partition(told)[2].split()[0])


def used_s() -> float:
    """Returns the processor's time in seconds of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/assets/tiny-deepseek")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of starts measured, after one that is not")
    options = parser.parse_args()
    import torch

    print_machine(torch)
    arguments: dict[str, object] = {
        "model": options.model,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 64,
        "kv_cache_memory_bytes": 16 << 20,
    }
    pairs: list[dict[str, tuple[float, float, float]]] = []
    for index in range(options.pairs + 1):
        order = (WITHOUT, WITH) if index % 2 else (WITH, WITHOUT)
        pairs.append({variant: start(variant, arguments) for variant in order})
    print(f"{len(pairs) - 1} pairs; median [middle half]")
    for column, clock in enumerate(("by the clock", "of the processor")):
        print_ratios(clock, [{name: times[column] for name, times in pair.items()} for pair in pairs[1:]])
    shares = [pair[WITH][2] / pair[WITH][0] for pair in pairs[1:]]
    print(f"seconds in the plug-in {spread([pair[WITH][2] for pair in pairs[1:]], '.4f')}")
    print(f"  share of its start   {spread(shares, '.4f')}")


def print_ratios(clock: str, pairs: list[dict[str, float]]) -> None:
    """Prints the seconds of both, and their ratio."""
    print(f"seconds {clock}")
    for variant in PLUGINS:
        print(f"  {variant:20} {spread([pair[variant] for pair in pairs], '.3f')} s")
    ratios = [pair[WITH] / pair[WITHOUT] for pair in pairs]
    medians = [statistics.median(pair[variant] for pair in pairs) for variant in (WITH, WITHOUT)]
    print(f"  ratio of the medians {medians[0] / medians[1]:.4f}; of each pair {spread(ratios, '.4f')}")


if __name__ == "__main__":
    main()
