# SPDX-License-Identifier: Apache-2.0
"""Programs that touch pinned memory too early, beside the first byte of an instruction's operand; their twins."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from tests.emulator.races.planted import Planted

NUM_IDS = 8  # of 8 bytes: all of them fit into two vectors of a processor
READS = ("reads pinned memory before", "in early_read_of_one_id", "synchronise")
WRITES = ("overwrites pinned memory while", "in early_write_of_ids", "another buffer")


def _memmove(ids: torch.Tensor) -> object:
    copied = (ctypes.c_int64 * ids.numel())()
    return ctypes.memmove(copied, ids.data_ptr(), ids.numel() * 8)


# What a program reads a whole tensor with, one of whose elements is still on its way.
READERS: dict[str, Callable[[torch.Tensor], object]] = {
    "clone": torch.clone,
    "sum": torch.sum,
    "max": torch.max,
    "tolist": torch.Tensor.tolist,
    "numpy_copy": lambda ids: ids.numpy().copy(),
    "numpy_comparison": lambda ids: ids.numpy() == 3,
    "memmove": _memmove,
}


def early_read_of_one_id(correct: bool, read: Callable[[torch.Tensor], object], slot: int) -> bool:
    """Brings one id to the host, and reads all of them before it is known to be there."""
    ids = torch.zeros(NUM_IDS, dtype=torch.int64, pin_memory=True)
    sampled = torch.full((1,), 7, dtype=torch.int64, device="npu")
    ids[slot : slot + 1].copy_(sampled, non_blocking=True)
    if correct:
        read(ids[:slot])  # the other ids are the program's own
        read(ids[slot + 1 :])
        torch.npu.current_stream().synchronize()
    read(ids)
    torch.npu.synchronize()
    return bool(ids[slot] == 7)


def early_write_of_ids(correct: bool, slot: int) -> bool:
    """Fills all ids for the next step while one of them is still read by its copy to the device."""
    ids = torch.full((NUM_IDS,), 5, dtype=torch.int64).pin_memory()
    on_device = torch.zeros(1, dtype=torch.int64, device="npu")
    on_device.copy_(ids[slot : slot + 1], non_blocking=True)
    if correct:
        ids[:slot].fill_(6)
        ids[slot + 1 :].fill_(6)
        torch.npu.current_stream().synchronize()
    ids.fill_(6)
    torch.npu.synchronize()
    return on_device.item() == 5


def _named(name: str, run: Callable[[bool], bool], report: tuple[str, ...]) -> Planted:
    run.__name__ = name
    return Planted(run, report)


def _reads() -> list[Planted]:
    return [
        _named(
            f"early_{name}_slot{slot}",
            lambda correct, read=read, slot=slot: early_read_of_one_id(correct, read, slot),
            READS,
        )
        for name, read in READERS.items()
        for slot in (0, 1, 3, 6)
        if not (name == "max" and slot == 0)  # the twin would ask for the largest of nothing
    ]


def _writes() -> list[Planted]:
    return [
        _named(f"early_fill_slot{slot}", lambda correct, slot=slot: early_write_of_ids(correct, slot), WRITES)
        for slot in (0, 3, 7)
    ]


PINNED = [*_reads(), *_writes()]
