# SPDX-License-Identifier: Apache-2.0
"""The CUDA classes against the installed vLLM, as far as that goes without a GPU."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest

import vllm_ascend_ext

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]


def test_the_gpu_worker_looks_its_runner_up_where_we_put_ours() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    from vllm_ascend_ext.integration.workers.cuda import ExtCUDAWorker

    seam = ExtCUDAWorker.model_runner_seam
    assert seam is not None
    tree = ast.parse(textwrap.dedent(inspect.getsource(Worker.init_device)))
    imports = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert (seam.module, seam.name) in imports


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


def test_runner_and_worker_classes_stay_two_liners() -> None:
    """What differs between devices is named in the bases; a body would be a second runner in the making."""
    folder = Path(vllm_ascend_ext.__file__).parent / "integration" / "workers"
    classes = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
    assert sorted(classes) == [
        f"Ext{device}{role}" for device in ("CPU", "CUDA", "NPU") for role in ("ModelRunner", "Worker")
    ]
    for name, node in classes.items():
        ours_and_theirs = [base for base in node.bases if not ast.unparse(base).startswith("Mended")]
        assert len(ours_and_theirs) == 2, name
        assert len(node.body) == 1, f"{name} has a body of its own"
        assert not isinstance(node.body[0], ast.FunctionDef), name
