# SPDX-License-Identifier: Apache-2.0
"""Prices each mode of exchanging rows: bytes and seconds of gathering rows, running experts' padding and
combining."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ascend_ext.collectives import sent_bytes
from vllm_ascend_ext.dp_gather.machine import Curve, Machine
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, GatherRows, PlanInputError


@dataclass(frozen=True, slots=True)
class RowWidths:
    """Holds the bytes of one row in each direction.

    dispatch: row bytes of each tensor that is gathered (hidden states, router logits, scales).
    combine: row bytes of the tensor that is summed back; 0 when nothing is.
    """

    dispatch: tuple[int, ...]
    combine: int = 0

    def __post_init__(self) -> None:
        if not self.dispatch or min(self.dispatch) < 1 or self.combine < 0:
            raise PlanInputError(f"widths must be positive: {self.dispatch} to the experts, {self.combine} back")


@dataclass(frozen=True, slots=True)
class Cost:
    """Holds what one gather and combine cost.

    Attributes:
        gather_bytes, combine_bytes: bytes that each rank sends, one number a rank (counted by `sent_bytes`).
        gather_s, pad_s, combine_s: seconds on the machine; None without one.
    """

    gather_bytes: tuple[int, ...]
    combine_bytes: tuple[int, ...]
    gather_s: float | None = None
    pad_s: float | None = None
    combine_s: float | None = None

    @property
    def seconds(self) -> float | None:
        """Returns the seconds of gather, padding and combine together."""
        if self.gather_s is None or self.pad_s is None or self.combine_s is None:
            return None
        return self.gather_s + self.pad_s + self.combine_s

    @property
    def sent(self) -> tuple[int, ...]:
        """Returns the bytes sent in both directions, one number a rank."""
        return tuple(a + b for a, b in zip(self.gather_bytes, self.combine_bytes, strict=True))


def price(mode: GatherMode, rows: GatherRows, widths: RowWidths, machine: Machine | None = None) -> Cost:
    """Returns the cost of exchanging `rows` by `mode`."""
    per_tensor = [_gather_bytes(mode, rows, width) for width in widths.dispatch]
    gather_bytes = tuple(map(sum, zip(*per_tensor, strict=True)))
    combine_bytes = _combine_bytes(mode, rows, widths.combine)
    if machine is None:
        return Cost(gather_bytes, combine_bytes)
    if not rows.num_rows:
        return Cost(gather_bytes, combine_bytes, 0.0, 0.0, 0.0)
    return Cost(
        gather_bytes,
        combine_bytes,
        gather_s=sum(_gather_seconds(mode, rows, width, machine) for width in widths.dispatch),
        pad_s=rows.num_pad_rows * sum(widths.dispatch) * machine.pad_byte_s,
        combine_s=_combine_seconds(mode, rows, widths.combine, machine) if widths.combine else 0.0,
    )


def _gather_bytes(mode: GatherMode, rows: GatherRows, width: int) -> tuple[int, ...]:
    num_ranks, whole = len(rows.placed), rows.num_rows * width
    if mode is GatherMode.SUM_LEN:
        return (sent_bytes.all_reduce(whole, num_ranks),) * num_ranks
    one = sent_bytes.all_gather if mode is GatherMode.MAX_LEN else sent_bytes.all_gather_variable
    return tuple(one(placed * width, num_ranks) for placed in rows.placed)


def _combine_bytes(mode: GatherMode, rows: GatherRows, width: int) -> tuple[int, ...]:
    num_ranks, whole = len(rows.placed), rows.num_rows * width
    if mode is GatherMode.VARIABLE:
        return tuple(sent_bytes.reduce_scatter_variable(whole, placed * width) for placed in rows.placed)
    one = sent_bytes.reduce_scatter if mode is GatherMode.MAX_LEN else sent_bytes.all_reduce
    return (one(whole, num_ranks),) * num_ranks


def _gather_seconds(mode: GatherMode, rows: GatherRows, width: int, machine: Machine) -> float:
    whole = rows.num_rows * width
    if mode is GatherMode.MAX_LEN:
        return machine.all_gather.seconds(whole)
    if mode is GatherMode.SUM_LEN:
        return machine.all_reduce.seconds(whole)
    return _between(machine.all_gather_variable, machine.all_gather_one_long, rows, whole)


def _combine_seconds(mode: GatherMode, rows: GatherRows, width: int, machine: Machine) -> float:
    whole = rows.num_rows * width
    if mode is GatherMode.MAX_LEN:
        return machine.reduce_scatter.seconds(whole)
    if mode is GatherMode.SUM_LEN:
        return machine.all_reduce.seconds(whole)
    return _between(machine.reduce_scatter_variable, machine.reduce_scatter_one_long, rows, whole)


def _between(even: Curve, one_long: Curve, rows: GatherRows, whole: int) -> float:
    """Interpolates between both curves by how uneven the rows are: 0 when all ranks have as many, 1 when one has
    all."""
    num_ranks = len(rows.placed)
    if num_ranks == 1:
        return even.seconds(whole)
    skew = (max(rows.placed) * num_ranks - rows.num_rows) / (rows.num_rows * (num_ranks - 1))
    return even.seconds(whole) * (1 - skew) + one_long.seconds(whole) * skew
