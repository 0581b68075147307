# SPDX-License-Identifier: Apache-2.0
"""Holds the speeds of one rank of a machine. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Holds how fast one rank computes, moves and sends; what is reached, not what is printed on the box.

    Attributes:
        name: the machine's name.
        flops: matrix products in bfloat16 a second, a multiplication and an addition counted as two.
        memory: bytes a second, read or written.
        link: bytes a second that the rank sends in a gather or reduce-scatter, with all its links at work.
        collective_s: seconds that one more collective takes, however small.
        hop_s: seconds that each further rank of the group adds to that.
        all_reduce, variable: like `link`, of an all-reduce and of exchanges of uneven parts; None for the same.
        int8, fp8: like `flops`, for matrices of these; None where the machine has no such unit.
        vector: float32 operations a second outside the matrix unit, one for each element and instruction.
        launch_s: seconds that starting a kernel takes.
        mesh: number of ranks that are joined by a link of each to each other, so that a group of fewer has fewer
            links; 0 for a switch.
        node: number of ranks within reach of `link`; 0 for any number.
        network: bytes a second to ranks beyond those.
    """

    name: str
    flops: float
    memory: float
    link: float
    collective_s: float
    hop_s: float = 0.0
    all_reduce: float | None = None
    variable: float | None = None
    int8: float | None = None
    fp8: float | None = None
    vector: float = math.inf
    launch_s: float = 0.0
    mesh: int = 0
    node: int = 0
    network: float = math.inf

    def send_rate(self, op: str, num_ranks: int) -> float:
        """Returns the bytes a second at which a rank sends the bytes that the ring algorithm counts.

        Within a node these are the links' alone. Beyond it every rank exchanges with the ranks of its node first,
        and then a node's part of the rows with its peers in the other nodes: the times add up.

        Args:
            op: "all_gather", "reduce_scatter", "all_reduce", or the first two with "_variable" behind.
            num_ranks: ranks of the group, at least 1.
        """
        chosen = {"all_reduce": self.all_reduce}.get(op, self.variable if op.endswith("_variable") else None)
        link = self.link if chosen is None else chosen
        near = min(num_ranks, self.node) if self.node else num_ranks
        if self.mesh:
            link *= max(min(near, self.mesh) - 1, 1) / (self.mesh - 1)
        if near == num_ranks:
            return link
        num_nodes = math.ceil(num_ranks / near)
        seconds = (near - 1) / near / link + (num_nodes - 1) / num_nodes / near / self.network
        return (num_ranks - 1) / num_ranks / seconds

    def call_s(self, num_ranks: int) -> float:
        """Returns the seconds that a collective of `num_ranks` takes before it moves anything."""
        return self.collective_s + (num_ranks - 1) * self.hop_s

    def matrix(self, weights: str) -> float | None:
        """Returns the operations a second of matrix products in "bf16", "int8" or "fp8"; None for no unit."""
        return {"bf16": self.flops, "int8": self.int8, "fp8": self.fp8}[weights]
