# SPDX-License-Identifier: Apache-2.0
"""CPU: our additions over the plain-torch platform's runner and worker."""

from vllm_ascend_ext.integration.cpu_platform.model_runner import TorchCPUModelRunner
from vllm_ascend_ext.integration.cpu_platform.worker import TorchCPUWorker
from vllm_ascend_ext.integration.worker import ExtWorker
from vllm_ascend_ext.runner.mixin import ExtModelRunner


class ExtCPUModelRunner(ExtModelRunner, TorchCPUModelRunner):
    """The model runner on the CPU."""


class ExtCPUWorker(ExtWorker, TorchCPUWorker):
    model_runner_class, model_runner_seam = ExtCPUModelRunner, None
