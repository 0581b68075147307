# SPDX-License-Identifier: Apache-2.0
"""Adds our mixins to the plain-torch platform's runner and worker, for the CPU."""

from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner
from vllm_ascend_ext.integration.cpu_platform.worker import TorchCPUWorker
from vllm_ascend_ext.integration.worker import ExtWorker
from vllm_ascend_ext.runner.mixin import ExtModelRunner


class ExtCPUModelRunner(ExtModelRunner, TorchCPUModelRunner):
    """Runs models on the CPU and calls our observers and outputs."""


class ExtCPUWorker(ExtWorker, TorchCPUWorker):
    model_runner_class, model_runner_seam = ExtCPUModelRunner, None
