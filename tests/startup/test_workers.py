# SPDX-License-Identifier: Apache-2.0
"""The CUDA classes against the installed vLLM, as far as that goes without a GPU."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]


def test_the_gpu_worker_looks_its_runner_up_where_we_put_ours() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    from vllm_ascend_ext.integration.workers.cuda import ExtCUDAWorker

    module, _, name = str(ExtCUDAWorker.model_runner_symbol).partition(":")
    tree = ast.parse(textwrap.dedent(inspect.getsource(Worker.init_device)))
    imports = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert (module, name) in imports


@pytest.mark.parametrize("method", ["execute_model", "_model_forward", "_dummy_run"])
def test_the_mixin_stands_in_front_of_the_gpu_runner(method: str) -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from vllm_ascend_ext.integration.workers.cpu import ExtCPUModelRunner
    from vllm_ascend_ext.integration.workers.cuda import ExtCUDAModelRunner
    from vllm_ascend_ext.runner.mixin import ExtModelRunner

    assert hasattr(GPUModelRunner, method)
    for runner in (ExtCUDAModelRunner, ExtCPUModelRunner):
        assert runner.__mro__.index(ExtModelRunner) < runner.__mro__.index(GPUModelRunner)
        assert getattr(runner, method) is getattr(ExtModelRunner, method)
