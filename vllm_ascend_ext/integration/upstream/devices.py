# SPDX-License-Identifier: Apache-2.0
"""How we stand on each kind of device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceIntegration:
    """How we stand on one kind of device.

    worker: our worker (two lines over the device's own, see workers/).
    default_worker: what the platform puts into `worker_cls` for "auto"; anything else is the user's own.
    falls_back_to_first_runner: the device's worker builds the V1 model runner whatever vLLM chose.
    routes_itself: layers route without vLLM's router objects (see `ascend_routing`).
    device_collectives: NCCL or HCCL sums on the device.
    attn_scatter: the layers are vLLM's own, which scattered attention input takes apart.
    dp_gather: the gather by plan has run there.
    """

    worker: str
    default_worker: str
    falls_back_to_first_runner: bool = False
    routes_itself: bool = False
    device_collectives: bool = True
    attn_scatter: bool = True
    dp_gather: bool = True


DEVICES = {
    "npu": DeviceIntegration(
        "vllm_ascend_ext.integration.workers.npu.ExtNPUWorker",
        "vllm_ascend.worker.worker.NPUWorker",
        falls_back_to_first_runner=True,
        routes_itself=True,
        attn_scatter=False,
    ),
    "cuda": DeviceIntegration(
        "vllm_ascend_ext.integration.workers.cuda.ExtCUDAWorker",
        "vllm.v1.worker.gpu_worker.Worker",
        dp_gather=False,
    ),
    "cpu": DeviceIntegration(
        "vllm_ascend_ext.integration.workers.cpu.ExtCPUWorker",
        "vllm_ascend_ext.integration.cpu_platform.worker.TorchCPUWorker",
        device_collectives=False,
    ),
}
