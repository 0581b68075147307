# SPDX-License-Identifier: Apache-2.0
"""Runs rank programs beyond eager torch.distributed: captured graphs, and HCCL called as vllm-ascend calls it."""

from __future__ import annotations

import ctypes
import os
import time

import torch
import torch.distributed as dist

from tests.emulator.hccl.launch import process_group
from tests.emulator.hccl.values import check, reduced, values

ROOT_INFO_BYTES = 4108
# HCCL's numbers of the types that torch_npu does not let it reduce here
DIRECT_TYPES = {torch.uint8: 7, torch.uint16: 8, torch.uint32: 9, torch.uint64: 6, torch.float64: 10}


def graph(rank: int, num_ranks: int, folder: str) -> None:
    """Replays of captured collectives, between collectives of the same group on other streams."""
    process_group(rank, num_ranks, folder)
    captured, total, gathered = (torch.zeros(size, device="npu") for size in (100, 100, 100 * num_ranks))
    side = torch.npu.Stream()
    dist.all_reduce(total)  # the communicator, before the capture
    recorded = torch.npu.NPUGraph()
    with torch.npu.graph(recorded):
        total.copy_(captured)
        dist.all_reduce(total)
        dist.all_gather_into_tensor(gathered, total)
    for step in range(20):
        captured.fill_(float(rank + step))
        eager = torch.full((50,), float(rank), device="npu")
        side.wait_stream(torch.npu.current_stream())
        recorded.replay()
        with torch.npu.stream(side):  # not ordered against the replay
            dist.all_reduce(eager)
        recorded.replay()
        expected = float(sum(other + step for other in range(num_ranks)))
        check("captured all_reduce", total, torch.full((100,), expected))
        check("captured all_gather", gathered, torch.full((100 * num_ranks,), expected))
        with torch.npu.stream(side):
            check("eager all_reduce", eager, torch.full((50,), float(sum(range(num_ranks)))))
        torch.npu.synchronize()
    dist.destroy_process_group()


class _RootInfo(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * ROOT_INFO_BYTES)]


def direct(rank: int, num_ranks: int, folder: str) -> None:
    """Makes a communicator of our own through libhccl's C functions."""
    torch.npu.set_device(rank)
    hccl = ctypes.CDLL("libhccl.so")
    hccl.HcclGetErrorString.restype = ctypes.c_char_p
    info, communicator = _RootInfo(), ctypes.c_void_p()
    path = os.path.join(folder, "root_info")
    if rank == 0:
        assert hccl.HcclGetRootInfo(ctypes.byref(info)) == 0
        with open(path + ".new", "wb") as file:
            file.write(bytes(info))
        os.rename(path + ".new", path)
    while not os.path.exists(path):
        time.sleep(0.01)
    with open(path, "rb") as file:
        info = _RootInfo.from_buffer_copy(file.read())
    assert hccl.HcclCommInitRootInfo(num_ranks, ctypes.byref(info), rank, ctypes.byref(communicator)) == 0
    stream = ctypes.c_void_p(torch.npu.current_stream().npu_stream)
    for dtype, number in DIRECT_TYPES.items():
        parts = [values(3, other, 1000, dtype) for other in range(num_ranks)]
        tensor = parts[rank].npu()
        pointer = ctypes.c_void_p(tensor.data_ptr())
        assert hccl.HcclAllReduce(pointer, pointer, ctypes.c_uint64(1000), number, 0, communicator, stream) == 0
        wide = parts if dtype.is_floating_point else [part.to(torch.int64) for part in parts]
        check("HcclAllReduce", tensor, reduced(wide, dist.ReduceOp.SUM).to(dtype))
    assert hccl.HcclBarrier(communicator, stream) == 0
    torch.npu.synchronize()
    outside = ctypes.c_void_p(16)
    code = hccl.HcclAllReduce(outside, outside, ctypes.c_uint64(4), 4, 0, communicator, stream)
    assert hccl.HcclGetErrorString(code), code
    assert code != 0
    assert hccl.HcclCommDestroy(communicator) == 0
    assert hccl.HcclCommDestroy(communicator) != 0
