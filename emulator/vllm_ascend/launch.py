# SPDX-License-Identifier: Apache-2.0
"""Runs an operator of libopapi by its name, with the arguments that op-plugin passes, where torch_npu's own
function cannot be used: the operator, its limits and the race checker are the same.

The handles are made as op-plugin makes them (utils/op_api_common.h, BSD-3).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import torch
import torch_npu
from torch import Tensor

# aclDataType (CANN API documentation)
_TYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.int8: 2,
    torch.int32: 3,
    torch.int64: 9,
    torch.bool: 12,
    torch.bfloat16: 27,
}
_FORMAT_ND = 2


def run(name: str, *arguments: Tensor | None | str | int | float) -> None:
    """Runs an operator on the current stream. Raises RuntimeError with its message where it refuses."""
    opapi, runtime = ctypes.CDLL("libopapi.so"), ctypes.CDLL("libascendcl.so")
    runtime.aclGetRecentErrMsg.restype = ctypes.c_char_p
    stream = ctypes.c_void_p(torch_npu.npu.current_stream().npu_stream)
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    with contextlib.ExitStack() as handles:
        passed = [_passed(opapi, argument, handles) for argument in arguments]
        failed = getattr(opapi, f"{name}GetWorkspaceSize")(*passed, ctypes.byref(size), ctypes.byref(executor))
        if failed == 0:
            failed = getattr(opapi, name)(None, size, executor, stream)
    if failed != 0:
        raise RuntimeError((runtime.aclGetRecentErrMsg() or name.encode()).decode())


def _passed(opapi: ctypes.CDLL, argument: Tensor | None | str | int | float, handles: contextlib.ExitStack) -> Any:
    if argument is None:
        return None
    if isinstance(argument, str):
        return ctypes.c_char_p(argument.encode())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return (
        ctypes.c_int64(argument) if isinstance(argument, int) else handles.enter_context(_handle(opapi, argument))
    )


@contextlib.contextmanager
def _handle(opapi: ctypes.CDLL, tensor: Tensor) -> Iterator[ctypes.c_void_p]:
    """Makes a tensor's handle: view, strides, offset, format, storage."""

    def numbers(values: tuple[int, ...]) -> Any:
        return (ctypes.c_int64 * len(values))(*values)

    opapi.aclCreateTensor.restype = ctypes.c_void_p
    storage = tensor.untyped_storage()
    elements = storage.nbytes() // tensor.element_size()
    handle = ctypes.c_void_p(
        opapi.aclCreateTensor(
            numbers(tuple(tensor.shape)), ctypes.c_uint64(tensor.dim()), _TYPES[tensor.dtype],
            numbers(tensor.stride()), ctypes.c_int64(int(tensor.storage_offset())), _FORMAT_ND,
            numbers((elements,)), ctypes.c_uint64(1), ctypes.c_void_p(storage.data_ptr()),
        )
    )  # fmt: skip
    try:
        yield handle
    finally:
        opapi.aclDestroyTensor(handle)
