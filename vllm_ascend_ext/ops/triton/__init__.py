# SPDX-License-Identifier: Apache-2.0
"""Triton kernels for CUDA, one file an operator. Triton itself is imported by the first call on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import Any

from vllm_ascend_ext.ops._library import explain_missing, register_kernels

_FILES = {  # operator → the file whose function of the same name is its kernel
    "expert_load_add_": "expert_load",
    "expert_load_add_counts_": "expert_load_counts",
    "dp_pad": "dp_rows",
    "dp_unpad": "dp_rows",
    "add_rms_norm": "add_rms_norm",
    "mtp_pack_output": "mtp_pack",
}


def register() -> None:
    """Makes the kernels serve CUDA tensors, where triton is installed."""
    if importlib.util.find_spec("triton") is None:
        explain_missing("cuda", "triton is not installed")
        return
    register_kernels("cuda", {op: partial(_call, file, op) for op, file in _FILES.items()})


def _call(file: str, op: str, *arguments: Any) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{file}"), op)(*arguments)
