# SPDX-License-Identifier: Apache-2.0
"""Implements the operators in Triton for CUDA, one file an operator. Triton itself is imported by the first call
on a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from vllm_ascend_ext.ops._library import explain_missing, register_kernels

_OPERATORS = (
    "expert_load_add_",
    "expert_load_add_counts_",
    "dp_pad",
    "dp_unpad",
    "add_rms_norm",
    "mtp_pack_output",
)


def register() -> None:
    """Makes the kernels serve CUDA tensors, where triton is installed."""
    if importlib.util.find_spec("triton") is None:
        explain_missing("cuda", "triton is not installed")
        return
    register_kernels("cuda", {op: partial(_call, op) for op in _OPERATORS})


def _call(op: str, *arguments: Any) -> Any:
    return _kernels()[op](*arguments)


@cache
def _kernels() -> dict[str, Callable[..., Any]]:
    """Imports the kernels at their first use: triton takes seconds, and the CPU never needs it."""
    from vllm_ascend_ext.ops.triton import add_rms_norm, dp_rows, expert_load, expert_load_counts, mtp_pack

    modules = (expert_load, expert_load_counts, dp_rows, add_rms_norm, mtp_pack)
    return {op: getattr(module, op) for op in _OPERATORS for module in modules if hasattr(module, op)}
