# SPDX-License-Identifier: Apache-2.0
"""Adds our mixins to vLLM's GPU runner (V1) and worker, for CUDA."""

from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from vllm_ascend_ext.integration.upstream.seams.rows import runner
from vllm_ascend_ext.integration.upstream.vllm_runner import MendedRunner
from vllm_ascend_ext.integration.worker import ExtWorker
from vllm_ascend_ext.runner.mixin import ExtModelRunner


class ExtCUDAModelRunner(ExtModelRunner, MendedRunner, GPUModelRunner):
    """Runs models on CUDA and calls our observers and outputs."""


class ExtCUDAWorker(ExtWorker, Worker):
    model_runner_class, model_runner_seam = ExtCUDAModelRunner, runner.CUDA_RUNNER
