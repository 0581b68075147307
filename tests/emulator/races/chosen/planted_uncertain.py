# SPDX-License-Identifier: Apache-2.0
"""Indices that cannot be trusted: all of what they choose from counts, whichever row they happened to name."""

from __future__ import annotations

import functools

import torch

from tests.emulator.races.chosen.planted_rows import FREE, INDEX, ROWS, WIDTH, _table
from tests.emulator.races.planted import Planted, _side_stream


@functools.cache
def _third_stream() -> torch.npu.Stream:
    return torch.npu.Stream()


def _load_free_row(table: torch.Tensor, fresh: torch.Tensor) -> None:
    with torch.npu.stream(_side_stream()):
        table[FREE].copy_(fresh)


def _racing(correct: bool, index_first: bool) -> bool:
    """Reads rows by an index that another stream writes, with the same values, with no order to the read."""
    main, writer = torch.npu.current_stream(), _third_stream()
    table, index = _table()
    same, fresh = torch.tensor(INDEX).npu(), torch.full((WIDTH,), 100.0, device="npu")
    torch.npu.synchronize()
    if index_first:
        with torch.npu.stream(writer):
            index.copy_(same)
        if correct:
            main.wait_stream(writer)
    rows = table.index_select(0, index)
    if not index_first:
        if correct:
            writer.wait_stream(main)
        with torch.npu.stream(writer):
            index.copy_(same)
    _load_free_row(table, fresh)
    torch.npu.synchronize()
    return rows.cpu()[:, 0].tolist() == list(INDEX)


def index_written_before(correct: bool) -> bool:
    """Lets the write of the index come first."""
    return _racing(correct, index_first=True)


def index_written_after(correct: bool) -> bool:
    """Lets the read by the index come first."""
    return _racing(correct, index_first=False)


def freed_table(correct: bool) -> bool:
    """Frees a table while a side stream reads a row of it; its other rows are handed out and written."""
    main, side = torch.npu.current_stream(), _side_stream()
    table, index = _table()
    torch.npu.synchronize()
    with torch.npu.stream(side):
        rows = table.index_select(0, index)
    if correct:
        table.record_stream(side)
    del table
    others = [torch.empty(ROWS, WIDTH, device="npu") for _ in range(4)]  # one of them in its memory
    for other in others:
        other[FREE].fill_(100)
    main.synchronize()
    side.synchronize()
    return rows.cpu()[:, 0].tolist() == list(INDEX)


UNCERTAIN = [
    Planted(index_written_before, ("does not wait for aclnnIndexSelect", "in _load_free_row")),
    Planted(index_written_after, ("does not wait for aclnnIndexSelect", "in _load_free_row")),
    Planted(freed_table, ("handed out again", "in freed_table", "record_stream")),
]
