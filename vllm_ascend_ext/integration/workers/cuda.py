# SPDX-License-Identifier: Apache-2.0
"""CUDA: our additions over vLLM's GPU runner (V1) and worker."""

from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from vllm_ascend_ext.integration.upstream.seams.rows import runner
from vllm_ascend_ext.integration.worker import ExtWorker
from vllm_ascend_ext.runner.mixin import ExtModelRunner


class ExtCUDAModelRunner(ExtModelRunner, GPUModelRunner):
    """The model runner on CUDA."""


class ExtCUDAWorker(ExtWorker, Worker):
    model_runner_class, model_runner_seam = ExtCUDAModelRunner, runner.CUDA_RUNNER
