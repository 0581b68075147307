# SPDX-License-Identifier: Apache-2.0
"""Loads the AscendC kernels for NPU tensors: a library that registers them, or why they are not there."""

from __future__ import annotations

from pathlib import Path

import torch

from vllm_ascend_ext import envs
from vllm_ascend_ext.ops._library import explain_missing

BINDING = "libascend_ext_npu.so"
"""What ``VLLM_ASCEND_EXT_BUILD=npu`` builds beside ``libascend_ext_kernels.so``, and the emulator for itself."""


def register() -> None:
    """Loads the library where it is, so that its kernels serve NPU tensors. Else `coverage` tells the reason."""
    path = Path(envs.VLLM_ASCEND_EXT_LIB or Path(__file__).parent.parent / "lib").resolve() / BINDING
    if not path.is_file():
        where = f" ({path} is not there)" if envs.VLLM_ASCEND_EXT_LIB else ""
        explain_missing(
            "npu", f"not built{where}: install with VLLM_ASCEND_EXT_BUILD=npu where ASCEND_HOME_PATH is set"
        )
        return
    try:
        import torch_npu  # noqa: F401 - the library needs its symbols

        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except Exception as error:  # a driver or library that is missing fails in ways of its own
        cause = error.__cause__ or error  # torch keeps the loader's own words there
        reason = (str(cause) or repr(cause)).partition("\n")[0]
        explain_missing("npu", f"{BINDING} is built, but does not load: {reason}")
