# SPDX-License-Identifier: Apache-2.0
"""Lists what we bring on each kind of device: a row is all that a device needs here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.integration.upstream.versions import PAIR_0_30, Pair, installed_pair


@dataclass(frozen=True, slots=True)
class DeviceIntegration:
    """Describes what we bring on one kind of device.

    worker: our worker (two lines over the device's own, in workers/).
    default_worker: what the platform puts into `worker_cls` for "auto"; anything else is the user's own.
    stack: the module of the stack that serves there, which has the object `STACK`.
    stacks_of_pairs: the same for pairs whose stack is another, by the pair's vLLM.
    falls_back_to_first_runner: whether the device's worker builds the V1 model runner whatever vLLM chose.
    device_collectives: whether collectives run on the device (NCCL, HCCL).
    unverified: features that have not run on this kind of device, and are refused there.
    """

    worker: str
    default_worker: str
    stack: str
    falls_back_to_first_runner: bool = False
    device_collectives: bool = True
    unverified: tuple[str, ...] = ()
    stacks_of_pairs: Mapping[str, str] = field(default_factory=dict)

    def load_stack(self, pair: Pair | None = None) -> Stack:
        """Returns a pair's stack, by default the installed one's; imports its module, but not what it is about."""
        module = self.stacks_of_pairs.get((pair or installed_pair()).vllm, self.stack)
        stack: Stack = importlib.import_module(module).STACK
        return stack


_INTEGRATION = "vllm_ascend_ext.integration"

DEVICES = {
    "npu": DeviceIntegration(
        f"{_INTEGRATION}.workers.npu.ExtNPUWorker",
        "vllm_ascend.worker.worker.NPUWorker",
        f"{_INTEGRATION}.stacks.vllm_ascend",
        falls_back_to_first_runner=True,
        stacks_of_pairs={PAIR_0_30.vllm: f"{_INTEGRATION}.stacks.vllm_ascend_030"},
    ),
    "cuda": DeviceIntegration(
        f"{_INTEGRATION}.workers.cuda.ExtCUDAWorker",
        "vllm.v1.worker.gpu_worker.Worker",
        f"{_INTEGRATION}.stacks.vllm",
        unverified=("dp_gather",),
    ),
    "cpu": DeviceIntegration(
        f"{_INTEGRATION}.workers.cpu.ExtCPUWorker",
        f"{_INTEGRATION}.cpu_platform.worker.TorchCPUWorker",
        f"{_INTEGRATION}.stacks.vllm",
        device_collectives=False,
    ),
}
