# SPDX-License-Identifier: Apache-2.0
"""Where the AscendC kernels for the NPU are, and why they are not there."""

from __future__ import annotations

from pathlib import Path

from vllm_ascend_ext.ops._library import explain_missing

KERNELS = Path(__file__).resolve().parent.parent / "lib" / "libascend_ext_kernels.so"
"""The launches that ``VLLM_ASCEND_EXT_BUILD=npu`` builds; they know nothing of torch."""


def explain() -> None:
    """Says for `coverage` what keeps the NPU on the references."""
    if KERNELS.is_file():
        explain_missing("npu", f"{KERNELS.name} is built, but this release has no torch_npu binding for it")
    else:
        explain_missing("npu", "not built: install with VLLM_ASCEND_EXT_BUILD=npu where ASCEND_HOME_PATH is set")
