# SPDX-License-Identifier: Apache-2.0
"""Adds our mixins to vllm-ascend's runner (V1) and worker, for Ascend NPUs."""

# the runner from there too: vllm-ascend's modules import each other in a circle that only opens at this one
from vllm_ascend.worker.worker import NPUModelRunner, NPUWorker

from vllm_ascend_ext.integration.upstream.ascend_runner import MendedAscendRunner
from vllm_ascend_ext.integration.upstream.seams.rows import runner
from vllm_ascend_ext.integration.worker import ExtWorker
from vllm_ascend_ext.runner.mixin import ExtModelRunner


class ExtNPUModelRunner(ExtModelRunner, MendedAscendRunner, NPUModelRunner):
    """Runs models on Ascend NPUs and calls our observers and outputs."""


class ExtNPUWorker(ExtWorker, NPUWorker):
    model_runner_class, model_runner_seam = ExtNPUModelRunner, runner.NPU_RUNNER
