# SPDX-License-Identifier: Apache-2.0
"""Operators that go by indices beside a copy of one row: of a row that the indices name, or of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.emulator.races.planted import Planted, _side_stream

ROWS, WIDTH = 16, 32
NAMED, FREE = 5, 9  # a row that the indices name and one that they do not
INDEX = (2, NAMED, 11)
Operator = Callable[[torch.Tensor, torch.Tensor], Any]  # of a table and an index


def _columns(index: torch.Tensor) -> torch.Tensor:
    """Returns the rows' numbers for each of their columns."""
    return index[:, None].expand(-1, WIDTH).contiguous()


def _flat(index: torch.Tensor) -> torch.Tensor:
    return (index[:, None] * WIDTH + torch.arange(WIDTH, device=index.device)).contiguous()


def _by_nd(table: torch.Tensor, index: torch.Tensor) -> object:
    import torch_npu

    return torch_npu.npu_scatter_nd_update_(table, index[:, None].int(), torch.ones_like(table[: len(INDEX)]))


def _mask(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    places = torch.arange(table.shape[0], device=table.device)
    return (places[:, None] == index).any(1)


# What the operators make of their operands' other arguments is issued, and waited for, ahead of the race.
READERS: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], Operator]] = {
    "index_select": (lambda _, index: index, lambda table, index: table.index_select(0, index)),
    "index_select_columns": (lambda _, index: index, lambda table, index: table.t().index_select(1, index)),
    "embedding": (lambda _, index: index.int(), lambda table, index: torch.nn.functional.embedding(index, table)),
    "index": (lambda _, index: index - ROWS, lambda table, index: table[index]),
    "index_pairs": (lambda _, index: _columns(index), lambda table, index: table[index, index % WIDTH]),
    "index_mask": (_mask, lambda table, mask: table[mask]),
    "gather": (lambda _, index: _columns(index), lambda table, index: table.gather(0, index)),
    "take": (lambda _, index: _flat(index), lambda table, index: table.take(index)),
}
WRITERS: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], Operator]] = {
    "index_put": (lambda _, index: index, lambda table, index: table.__setitem__(index, 1.0)),
    "index_copy": (
        lambda _, index: index,
        lambda table, index: table.index_copy_(0, index, torch.ones(len(INDEX), WIDTH, device="npu")),
    ),
    "index_fill": (lambda _, index: index, lambda table, index: table.index_fill_(0, index, 1)),
    "scatter": (lambda _, index: _columns(index), lambda table, index: table.scatter_(0, index, 1)),
    "scatter_nd_update": (lambda _, index: index, _by_nd),
    "put": (
        lambda _, index: _flat(index),
        lambda table, index: table.put_(index, torch.ones(len(INDEX), WIDTH, device="npu")),
    ),
}


def _table() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a table each of whose rows holds its number, and the index."""
    table = torch.arange(float(ROWS))[:, None].expand(-1, WIDTH).contiguous().npu()
    return table, torch.tensor(INDEX).npu()


def read_beside_write(correct: bool, name: str, copy_first: bool) -> bool:
    """Reads rows on the main stream while a side stream copies into one: of them, or of the others."""
    make, read = READERS[name]
    main, side = torch.npu.current_stream(), _side_stream()
    table, index = _table()
    index = make(table, index)
    row, fresh = FREE if correct else NAMED, torch.full((WIDTH,), 100.0, device="npu")
    torch.npu.synchronize()
    rows = None
    for step in (0, 1):
        if step == int(copy_first):
            rows = read(table, index)
        else:
            with torch.npu.stream(side):
                table[row].copy_(fresh)
    main.wait_stream(side)
    host = table.cpu()
    expected = torch.arange(float(ROWS))[:, None].expand(-1, WIDTH).contiguous()
    right = torch.equal(rows.cpu(), read(expected, index.cpu()))
    expected[row] = 100
    return right and torch.equal(host, expected)


def write_beside_read(correct: bool, name: str, copy_first: bool) -> bool:
    """Writes rows on the main stream while a side stream copies one to the host: of them, or of the others."""
    make, write = WRITERS[name]
    main, side = torch.npu.current_stream(), _side_stream()
    table, index = _table()
    index = make(table, index)
    row, saved = FREE if correct else NAMED, torch.zeros(WIDTH, pin_memory=True)
    torch.npu.synchronize()
    for step in (0, 1):
        if step == int(copy_first):
            write(table, index)
        else:
            with torch.npu.stream(side):
                saved.copy_(table[row], non_blocking=True)
    main.wait_stream(side)
    expected = torch.arange(float(ROWS))[:, None].expand(-1, WIDTH).contiguous()
    expected[list(INDEX)] = 1
    host = table.cpu()
    side.synchronize()
    return torch.equal(host, expected) and bool((saved == row).all())


def two_writers(correct: bool) -> bool:
    """Writes rows by indices on two streams: other rows on each, or one row on both."""
    main, side = torch.npu.current_stream(), _side_stream()
    table, index = _table()
    other = torch.tensor([FREE, 1 if correct else NAMED]).npu()
    torch.npu.synchronize()
    table[index] = 1.0
    with torch.npu.stream(side):
        table[other] = 2.0
    main.wait_stream(side)
    host = table.cpu()
    return bool((host[list(INDEX)] == 1).all() and (host[other.cpu()] == 2).all())


def _planted(run: Callable[[bool, str, bool], bool], name: str, copy_first: bool) -> Planted:
    def program(correct: bool) -> bool:
        return run(correct, name, copy_first)

    program.__name__ = f"{run.__name__}_{name}" + ("_copy_first" if copy_first else "")
    return Planted(program, ("does not wait for", f"in {run.__name__}", "as the indices say"))


ROW_KINDS = [
    *(_planted(read_beside_write, name, copy_first) for name in READERS for copy_first in (False, True)),
    *(_planted(write_beside_read, name, copy_first) for name in WRITERS for copy_first in (False, True)),
    Planted(two_writers, ("does not wait for", "in two_writers", "as the indices say")),
]
