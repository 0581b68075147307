# SPDX-License-Identifier: Apache-2.0
"""Measures what collecting expert load adds to a step: ours beside vllm-ascend's and vLLM's way, in one run.

Every rank is a process of its own. A step is a fixed piece of work (a matrix product repeated to `--step-ms`) that
counts 58 layers x 256 experts, then whatever the variant adds at its end. The variants take turns within one run,
step group by step group, so that a drift of the machine's speed hits all alike:

* off: counts only.
* host, device: ours. On the CPU, which has no streams, `device` sums where the main stream does: that shows what
  the collective costs, not what hiding it gains.
* blocking: vllm-ascend 0.23.0's pattern: stack the layers, all-gather, `.cpu()`.
* main-stream: vLLM 0.23.0's pattern: copy the step's counts into a window, and at the interval sum the window,
  all-reduce, `.cpu()`.

A network delay is injected into every collective of every variant, as a sleep before it starts. Added time is the
variant's own part of a step, by the wall clock of the thread that runs the model; the gather step is the one that
ends an interval.

    python benchmarks/eplb_load.py                # 2 and 4 ranks, intervals 1, 10, 600, delays 0, 1, 10 ms
    python benchmarks/eplb_load.py --growth       # 2 to 16 ranks at interval 10 and 1 ms, and a model beyond
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are forked

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from report import print_machine, spread  # noqa: E402

from vllm_ascend_ext.collectives.collectives import Collectives  # noqa: E402
from vllm_ascend_ext.device import create_device  # noqa: E402
from vllm_ascend_ext.eplb_load.device_sum import DeviceSum, max_routed_ids  # noqa: E402
from vllm_ascend_ext.eplb_load.host_sum import HostSum  # noqa: E402
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder  # noqa: E402
from vllm_ascend_ext.eplb_load.snapshots import Snapshots  # noqa: E402

LAYERS, EXPERTS, WINDOW = 58, 256, 1000
VARIANTS = ("off", "host", "device", "blocking", "main-stream")


@dataclass(frozen=True)
class Setting:
    """Describes one row of the table."""

    num_ranks: int
    interval: int
    delay_ms: float
    step_ms: float
    num_steps: int


@dataclass(frozen=True)
class Measured:
    """Holds what was measured of one variant on rank 0: seconds added to each ordinary and to each gather step,
    and a step's own time."""

    ordinary_s: list[float]
    gather_s: list[float]
    step_s: float


class Delayed:
    """Collectives behind a slow network."""

    def __init__(self, collectives: Collectives, delay_s: float) -> None:
        self.num_ranks, self.name = collectives.num_ranks, collectives.name
        self._collectives, self._delay_s = collectives, delay_s

    def all_reduce_(self, x: torch.Tensor) -> None:
        time.sleep(self._delay_s)
        self._collectives.all_reduce_(x)

    def all_gather_into(self, out: torch.Tensor, x: torch.Tensor) -> None:
        time.sleep(self._delay_s)
        self._collectives.all_gather_into(out, x)


def off(recorder: ExpertLoadRecorder, collectives: Delayed, interval: int) -> Callable[[int], None]:
    return lambda step: None


def host(recorder: ExpertLoadRecorder, collectives: Any, interval: int) -> Callable[[int], None]:
    return _ours(Snapshots([recorder], create_device("cpu"), partial(HostSum, collectives)), interval)


def device(recorder: ExpertLoadRecorder, collectives: Any, interval: int) -> Callable[[int], None]:
    return _ours(Snapshots([recorder], create_device("cpu"), partial(DeviceSum, collectives, None)), interval)


def _ours(snapshots: Snapshots, interval: int) -> Callable[[int], None]:
    def end_step(step: int) -> None:
        if step % interval == 0:
            snapshots.snapshot(step)
        snapshots.poll()

    return end_step


def blocking(recorder: ExpertLoadRecorder, collectives: Delayed, interval: int) -> Callable[[int], None]:
    everyone = torch.empty(collectives.num_ranks * LAYERS, EXPERTS, dtype=torch.int64)

    def end_step(step: int) -> None:
        if step % interval == 0:
            stacked = torch.stack([row.long() for row in recorder.load_LE])
            collectives.all_gather_into(everyone, stacked)
            everyone.cpu()
            recorder.reset()

    return end_step


def main_stream(recorder: ExpertLoadRecorder, collectives: Delayed, interval: int) -> Callable[[int], None]:
    window = torch.zeros(min(WINDOW, interval), LAYERS, EXPERTS, dtype=torch.int32)

    def end_step(step: int) -> None:
        window[step % len(window)].copy_(recorder.load_LE)
        recorder.load_LE.zero_()
        if step % interval == 0:
            total = window.sum(dim=0)
            collectives.all_reduce_(total)
            total.cpu()
            recorder.reset()

    return end_step


MAKE = dict(zip(VARIANTS, (off, host, device, blocking, main_stream), strict=True))


def work(step_s: float, a: torch.Tensor) -> None:
    """Computes what a step itself computes."""
    end = time.perf_counter() + step_s
    while time.perf_counter() < end:
        torch.mm(a, a)


def rank_main(rank: int, setting: Setting, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=setting.num_ranks)
    variants = {}
    for name in VARIANTS:
        group = dist.new_group(timeout=timedelta(seconds=120))
        collectives = Delayed(Collectives(group, 120.0, name), setting.delay_ms / 1000)
        recorder = ExpertLoadRecorder(LAYERS, EXPERTS, torch.device("cpu"), max_routed_ids(setting.num_ranks))
        variants[name] = recorder, MAKE[name](recorder, collectives, setting.interval)
    a = torch.randn(96, 96)
    topk_ids = torch.randint(0, EXPERTS, (8, 8))
    added: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in VARIANTS}
    for step in range(1, setting.num_steps + 1):
        for name, (recorder, end_step) in variants.items():
            recorder.begin_step(len(topk_ids))
            recorder.record(step % LAYERS, topk_ids)
            dist.barrier()  # a step's own collectives hold the ranks together; not part of what is timed
            work(setting.step_ms / 1000, a)
            begin = time.perf_counter()
            end_step(step)
            added[name][step % setting.interval == 0].append(time.perf_counter() - begin)
    if rank == 0:
        results.put({name: Measured(*parts, step_s=setting.step_ms / 1000) for name, parts in added.items()})
    dist.barrier()
    os._exit(0)  # the host variant's thread may wait in a group


def measure(setting: Setting) -> dict[str, Measured]:
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=rank_main, args=(rank, setting, folder, results))
            for rank in range(setting.num_ranks)
        ]
        for process in ranks:
            process.start()
        measured: dict[str, Measured] = results.get()
        for process in ranks:
            process.join(60)
            process.kill()
    return measured


def microseconds(values: list[float]) -> str:
    """Returns median and middle half as text."""
    if len(values) < 3:
        return f"{statistics.median(values) * 1e6:9.0f}" if values else f"{'-':>9}"
    return spread([value * 1e6 for value in values], ".1f", width="9")


def show(setting: Setting, measured: dict[str, Measured]) -> None:
    print(
        f"\n{setting.num_ranks} ranks, interval {setting.interval}, delay {setting.delay_ms:g} ms, "
        f"{setting.num_steps} steps of {setting.step_ms:g} ms"
    )
    print(f"  {'variant':12} {'ordinary step, us':32} {'gather step, us':32} added, % of a step")
    for name, values in measured.items():
        # by medians: on a shared machine a mean tells of the other programs
        ordinary_s = statistics.median(values.ordinary_s or [0.0]) * (setting.interval - 1)
        added_s = (ordinary_s + statistics.median(values.gather_s)) / setting.interval
        ordinary, gather = microseconds(values.ordinary_s), microseconds(values.gather_s)
        print(f"  {name:12} {ordinary:32} {gather:32} {100 * added_s / values.step_s:.3f}")
    theirs, ours = (statistics.median(measured[name].gather_s) for name in ("blocking", "host"))
    print(f"  host over blocking at the gather step: 1/{theirs / ours:.0f}")


def growth(step_ms: float) -> None:
    """Returns the cost of the gather step against ranks, and what a ring would take beyond what one machine can
    show."""
    found = {}
    for num_ranks in (2, 4, 8, 16):
        setting = Setting(num_ranks, 10, 1.0, step_ms, 100)
        found[num_ranks] = measured = measure(setting)
        show(setting, measured)
    print("\ngrowth of the gather step, median us (16 ranks share the machine's cores)")
    for name in VARIANTS:
        row = "  ".join(
            f"{num_ranks}: {statistics.median(measured[name].gather_s) * 1e6:.0f}"
            for num_ranks, measured in found.items()
        )
        print(f"  {name:12} {row}")
    print("modelled beyond, us on the critical path: ring, 5 us a hop, 20 GB/s a link, 58 x 256 counters")
    for num_ranks in (32, 64, 256):
        size = LAYERS * EXPERTS
        gather = (num_ranks - 1) * (5 + size * 8 / 20e3)
        reduce = 2 * (num_ranks - 1) * (5 + size * 4 / num_ranks / 20e3)
        ours = statistics.median(found[2]["host"].gather_s) * 1e6
        print(f"  {num_ranks:4} ranks: blocking {gather:.0f}, main-stream {reduce:.0f}, host {ours:.0f} (local)")


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=numbers, default=[2, 4])
    parser.add_argument("--intervals", type=numbers, default=[1, 10, 600])
    parser.add_argument("--delays", type=numbers, default=[0, 1, 10], help="of each collective, in ms")
    parser.add_argument("--step-ms", type=float, default=20.0, help="a step's own work")
    parser.add_argument("--steps", type=int, default=200, help="at least twice the interval are run")
    parser.add_argument("--growth", action="store_true", help="2 to 16 ranks instead")
    arguments = parser.parse_args()
    print_machine(torch)
    if arguments.growth:
        growth(arguments.step_ms)
        return
    for num_ranks in map(int, arguments.ranks):
        for interval in map(int, arguments.intervals):
            for delay_ms in arguments.delays:
                num_steps = max(arguments.steps, 2 * interval)
                step_ms = arguments.step_ms if interval < 100 else min(arguments.step_ms, 1.0)
                setting = Setting(num_ranks, interval, delay_ms, step_ms, num_steps)
                show(setting, measure(setting))


if __name__ == "__main__":
    main()
