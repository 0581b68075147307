# SPDX-License-Identifier: Apache-2.0
"""Runs steps on any device with snapshots, and an independent count that its hand-overs are held to."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial

import torch

from vllm_ascend_ext.device import Device, create_device
from vllm_ascend_ext.eplb_load.device_sum import DeviceSum
from vllm_ascend_ext.eplb_load.handover import ExpertLoad
from vllm_ascend_ext.eplb_load.host_sum import HostSum
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import Snapshots

SHAPES = ((3, 5), (1, 4))  # two models: layers, experts
TOP_K = 2
NUM_ROWS = 5  # of a step, padding included

Make = Callable[..., Snapshots]
Capture = Callable[[Callable[[], None]], Callable[[], None]]

NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "3"))


class _OneRank:
    num_ranks = 1

    def all_reduce_(self, x: torch.Tensor) -> None:
        x.add_(0)  # one more task in the order of the stream


def host_way(device: Device, recorders: list[ExpertLoadRecorder], **options: object) -> Snapshots:
    return Snapshots(recorders, device, partial(HostSum, None), **options)


def device_way(device: Device, recorders: list[ExpertLoadRecorder], **options: object) -> Snapshots:
    return Snapshots(recorders, device, partial(DeviceSum, _OneRank(), None), **options)


class Run:
    """Runs steps of random routing, counted by the recorders and, independently, on the host.

    device, make, options: what the snapshots are made with. capture(function): captures what `function` launches
    into a graph and returns its replay; None launches it each step.
    """

    def __init__(
        self,
        device: Device,
        make: Make,
        seed: int,
        capture: Capture | None = None,
        **options: object,
    ) -> None:
        self.device, self.random = device, random.Random(seed)
        self.recorders = [ExpertLoadRecorder(*shape, device.device) for shape in SHAPES]
        self.snapshots = make(device, self.recorders, **options)
        self.routed = [torch.zeros(shape, dtype=torch.int64) for shape in SHAPES]
        self.at: dict[int, list[torch.Tensor]] = {0: [load.clone() for load in self.routed]}
        self.num_tokens = [0, 0]
        self.handed: list[tuple[ExpertLoad, ...]] = []
        # what the recorders are given lies in memory that stays, as a captured graph needs it
        self._ids = [
            [torch.zeros(NUM_ROWS, TOP_K, dtype=torch.int64, device=device.device) for _ in range(layers)]
            for layers, _ in SHAPES
        ]
        self._record = self._launch
        if capture is not None:
            self._launch()  # outside the graph once, as warm-up does; no row counts
            self._record = capture(self._launch)

    def _launch(self) -> None:
        for recorder, layers in zip(self.recorders, self._ids, strict=True):
            for layer, ids in enumerate(layers):
                recorder.record(layer, ids)

    def step(self, number: int) -> None:
        for index, recorder in enumerate(self.recorders):
            num_tokens = self.random.randrange(4)
            recorder.begin_step(num_tokens)
            self.num_tokens[index] += num_tokens
            for layer, buffer in enumerate(self._ids[index]):
                ids = [[self.random.randrange(SHAPES[index][1]) for _ in range(TOP_K)] for _ in range(NUM_ROWS)]
                buffer.copy_(torch.tensor(ids))  # the rows from num_tokens on are padding
                for row in ids[:num_tokens]:
                    for expert in row:
                        self.routed[index][layer, expert] += 1
        self._record()
        self.at[number] = [load.clone() for load in self.routed]

    def go(self, num_steps: int, *, interval: int = 1, required: int = 7, pause_s: float = 0.0) -> None:
        for number in range(1, num_steps + 1):
            self.step(number)
            if number % interval == 0:
                self.snapshots.snapshot(number, required=number % required == 0)
            if self.random.random() < 0.5:
                self.handed += self.snapshots.poll()
            time.sleep(self.random.random() * pause_s)
        self.snapshots.drain()
        self.handed += self.snapshots.poll()

    def errors(self) -> list[str]:
        """Returns where hand-overs differ from the independent count: each one, and their sum with what is
        pending."""
        wrong, until = [], 0
        for loads in self.handed:
            for index, load in enumerate(loads):
                expected = self.at[load.step_end][index] - self.at[load.step_begin][index]
                if load.step_begin != until or not torch.equal(load.load_LE, expected):
                    wrong.append(f"steps {load.step_begin}..{load.step_end}, model {index}")
            until = loads[0].step_end
        for index, pending in enumerate(self.snapshots.pending(held=True)):
            total = sum((loads[index].load_LE for loads in self.handed), pending.load_LE)
            tokens = sum((loads[index].num_tokens for loads in self.handed), pending.num_tokens)
            if not torch.equal(total, self.routed[index]) or tokens != self.num_tokens[index]:
                wrong.append(f"total of model {index}")
        return wrong


def assert_hand_overs_exact(device_type: str, make: Make, capture: Capture | None, seed: int) -> None:
    """Runs 60 steps of one seed on an accelerator, with 1 to 3 buffers, hurried or with pauses."""
    run = Run(create_device(device_type), make, seed, capture, num_buffers=1 + seed % 3)
    run.go(60, interval=1 + seed % 2, pause_s=0.001 * (seed % 2))
    assert run.errors() == []
    run.snapshots.close()
