# SPDX-License-Identifier: Apache-2.0
"""Why NPU tensors have no kernel: no library, or one that does not load."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_ascend_ext import ops
from vllm_ascend_ext.ops import _library, ascendc

pytestmark = pytest.mark.skipif(
    ops.coverage(["npu"])[0].kind != "reference", reason="the kernels are loaded in this process"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library is looked for. What is found out about it is forgotten with the test."""
    monkeypatch.setitem(_library._why_missing, "npu", "")
    monkeypatch.setenv("VLLM_ASCEND_EXT_LIB", str(tmp_path))
    return tmp_path


def reasons() -> set[str | None]:
    ascendc.register()
    return {row.reason for row in ops.coverage(["npu"])}


def test_a_library_that_is_not_there(folder: Path) -> None:
    (reason,) = reasons()
    assert reason == (
        f"not built ({folder / ascendc.BINDING} is not there): "
        "install with VLLM_ASCEND_EXT_BUILD=npu where ASCEND_HOME_PATH is set"
    )


def test_a_library_without_torch_npu(folder: Path) -> None:
    (folder / ascendc.BINDING).touch()
    (reason,) = reasons()
    assert reason == "libascend_ext_npu.so is built, but does not load: No module named 'torch_npu'"


def test_the_packages_own_folder_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_library._why_missing, "npu", "")
    monkeypatch.delenv("VLLM_ASCEND_EXT_LIB", raising=False)
    (reason,) = reasons()
    assert reason is not None and reason.startswith("not built: install with VLLM_ASCEND_EXT_BUILD=npu")
