# SPDX-License-Identifier: Apache-2.0
"""Describes how long collectives take on a machine: named ones, and the JSON that `benchmarks/dp_gather.py`
prints."""

from __future__ import annotations

import functools
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vllm_ascend_ext.collectives import sent_bytes
from vllm_ascend_ext.dp_gather.plan_rows import PlanInputError
from vllm_ascend_ext.machines.known import KNOWN, KnownMachine

SCHEMA = 1


class MachineError(PlanInputError):
    """Reports a machine description that does not exist, cannot be read, or is for another number of ranks."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Maps bytes to seconds, linear between points and beyond the last one.

    points: (bytes, seconds), bytes ascending, at least two.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        if len(sizes) < 2 or sorted(set(sizes)) != sizes or any(seconds < 0 for _, seconds in self.points):
            raise MachineError(f"not two or more points of ascending bytes and seconds >= 0: {self.points}")

    def seconds(self, num_bytes: int) -> float:
        """Returns the seconds for `num_bytes`; less than the first point costs as much as the first point."""
        index = bisect_right(self.points, (num_bytes, float("inf")))
        if index == 0:
            return self.points[0][1]
        index = min(index, len(self.points) - 1)
        (low, low_s), (high, high_s) = self.points[index - 1], self.points[index]
        return max(low_s + (high_s - low_s) * (num_bytes - low) / (high - low), 0.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """Describes one group of ranks on one machine. Each curve is over the bytes of the whole buffer (all ranks'
    rows).

    Attributes:
        name, source: the machine's name, and the source of the numbers.
        num_ranks: number of ranks of the group that the curves hold for.
        all_gather, reduce_scatter, all_reduce: time of one call.
        all_gather_variable, reduce_scatter_variable: time of one call when all ranks have as many rows.
        all_gather_one_long, reduce_scatter_one_long: the same when one rank has all of them.
        pad_byte_s: seconds that the expert layer spends on a byte of a gathered row that no expert takes.
    """

    name: str
    source: str
    num_ranks: int
    all_gather: Curve
    reduce_scatter: Curve
    all_reduce: Curve
    all_gather_variable: Curve
    all_gather_one_long: Curve
    reduce_scatter_variable: Curve
    reduce_scatter_one_long: Curve
    pad_byte_s: float

    def to_json(self) -> str:
        """Returns the text that `read` reads."""
        curves = {
            name: [list(point) for point in value["points"]] if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }
        return json.dumps({"schema": SCHEMA, **curves}, indent=1)


def describe(name_or_file: str, num_ranks: int) -> Machine:
    """Returns the machine of that name, scaled to `num_ranks`, or the description in that file.

    Raises:
        MachineError: neither, or a description for another number of ranks.
    """
    if name_or_file in NAMED:
        return NAMED[name_or_file](num_ranks)
    machine = read(Path(name_or_file))
    if machine.num_ranks != num_ranks:
        raise MachineError(
            f"{name_or_file} was measured with {machine.num_ranks} ranks and the gather has {num_ranks}; "
            f"measure with `benchmarks/dp_gather.py --ranks {num_ranks} --write-machine FILE`"
        )
    return machine


def read(file: Path) -> Machine:
    """Reads a description as `Machine.to_json` writes it.

    Raises:
        MachineError: the file cannot be read, or is not a description of this schema.
    """
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise MachineError(
            f"{file} is neither a known machine ({', '.join(NAMED)}) nor a readable description: {error}"
        ) from None
    names = [field.name for field in fields(Machine)]
    if not isinstance(values, dict) or values.get("schema") != SCHEMA or set(values) != {"schema", *names}:
        raise MachineError(f"{file} is not a machine description of schema {SCHEMA}")
    try:
        return Machine(**{field.name: _value(field.type, values[field.name]) for field in fields(Machine)})
    except (TypeError, ValueError) as error:
        raise MachineError(f"{file}: {error}") from None


def _value(kind: Any, value: Any) -> Any:
    if kind == "Curve":
        return Curve(tuple((int(size), float(seconds)) for size, seconds in value))
    return {"str": str, "int": int, "float": float}[kind](value)


def linked(known: KnownMachine, num_ranks: int) -> Machine:
    """Describes a known machine: a call takes its latency and then sends the ring's bytes at the rate of the
    operation, and a padding byte of a gathered row is written and read once."""
    rates = known.rates

    def curve(op: str) -> Curve:
        count = sent_bytes.all_reduce if op == "all_reduce" else sent_bytes.reduce_scatter
        whole, latency_s = 1 << 30, rates.call_s(num_ranks)
        return Curve(
            ((0, latency_s), (whole, latency_s + count(whole, num_ranks) / rates.send_rate(op, num_ranks)))
        )

    gather, scatter = curve("all_gather_variable"), curve("reduce_scatter_variable")
    return Machine(
        name=known.name,
        source=f"{known.title}: published figures, see vllm_ascend_ext/machines/known.py",
        num_ranks=num_ranks,
        all_gather=curve("all_gather"),
        reduce_scatter=curve("reduce_scatter"),
        all_reduce=curve("all_reduce"),
        all_gather_variable=gather,
        all_gather_one_long=gather,
        reduce_scatter_variable=scatter,
        reduce_scatter_one_long=scatter,
        pad_byte_s=2 / rates.memory,
    )


NAMED: Mapping[str, Callable[[int], Machine]] = {
    name: functools.partial(linked, known) for name, known in KNOWN.items()
}
"""Machines known by name: number of ranks -> description."""
