# SPDX-License-Identifier: Apache-2.0
"""Plans how the rows of all replicas reach the experts and come back in one forward pass (`GatherPlan`).

A plan is a pure function of what all ranks know alike (every replica's rows, whether the pass runs in a graph,
the sizes, the machine's description), so that all ranks plan alike without asking each other. No torch here.

The rule `auto` is the comparison of bytes in SGLang's (``DpPaddingMode.get_dp_padding_mode``, #8280 as of #20406),
as it stands in SGLang 0.5.23. What SGLang decides before it comes to compare is not in `auto`
(docs/internals/dp_gather.md has these cases, with the reasons). `auto` looks at the gather alone; `cost` adds the
way back, the padded rows of the experts and each call's latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_ascend_ext.dp_gather.machine import Machine, MachineError
from vllm_ascend_ext.dp_gather.plan_cost import Cost, RowWidths, price
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, GatherRows, PlanInputError, Topology, lay_out

Rule = Literal["auto", "cost"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Describes one mode that was open, with its cost."""

    mode: GatherMode
    rows: GatherRows
    cost: Cost


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """Holds the plan of one forward pass.

    Attributes:
        counts: rows of each replica as they are; `chosen.rows.padded` are those with padding.
        topology: the ranks.
        in_graph: the pass runs in a captured graph on all ranks.
        chosen: the candidate that is carried out.
        candidates: all that were compared, in the order MAX_LEN, SUM_LEN, VARIABLE.
        reason: why, in words.
    """

    counts: tuple[int, ...]
    topology: Topology
    in_graph: bool
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def mode(self) -> GatherMode:
        return self.chosen.mode

    @property
    def rows(self) -> GatherRows:
        return self.chosen.rows


def make_plan(
    counts: Sequence[int],
    topology: Topology,
    widths: RowWidths,
    *,
    rule: Rule = "auto",
    machine: Machine | None = None,
    in_graph: bool = False,
    mode: GatherMode | None = None,
) -> GatherPlan:
    """Plans one forward pass.

    Args:
        counts: rows of each replica; a replica without work has 0, or its dummy rows.
        topology, widths: the ranks, and the bytes of a row.
        rule: how to choose; `cost` needs a machine.
        machine: description of `topology.num_ranks` ranks; with `auto` only for the predicted times.
        in_graph: all ranks replay a graph. It was captured with MAX_LEN, so no other mode is possible.
        mode: overrides the rule.

    Raises:
        PlanInputError: not one count a replica, or a mode that a graph does not allow.
        MachineError: `cost` without a machine, or a machine of another number of ranks.
    """
    if machine is not None and machine.num_ranks != topology.num_ranks:
        raise MachineError(f"{machine.name} describes {machine.num_ranks} ranks, not {topology.num_ranks}")
    candidates = tuple(_candidate(candidate, counts, topology, widths, machine) for candidate in GatherMode)
    by_mode = {candidate.mode: candidate for candidate in candidates}
    if in_graph and mode not in (None, GatherMode.MAX_LEN):
        raise PlanInputError(f"mode {mode.value!r} needs the counts of each pass, and a graph has fixed ones")
    if mode is not None:
        chosen, reason = by_mode[mode], f"{mode.value} was asked for"
    elif in_graph:
        chosen, reason = by_mode[GatherMode.MAX_LEN], "a graph needs buffers of one size: max_len"
    elif rule == "cost":
        chosen, reason = _cheapest(candidates)
    else:
        chosen, reason = _by_volume(by_mode, topology)
    return GatherPlan(tuple(counts), topology, in_graph, chosen, candidates, reason)


def _candidate(
    mode: GatherMode, counts: Sequence[int], topology: Topology, widths: RowWidths, machine: Machine | None
) -> Candidate:
    rows = lay_out(counts, topology, mode)
    return Candidate(mode, rows, price(mode, rows, widths, machine))


def _by_volume(by_mode: dict[GatherMode, Candidate], topology: Topology) -> tuple[Candidate, str]:
    """Chooses by SGLang's comparison of the rounded counts: an all-reduce sends every row twice, an all-gather the
    longest's."""
    rounded = by_mode[GatherMode.SUM_LEN].rows.padded
    twice_sum, all_longest = 2 * sum(rounded), max(rounded) * topology.dp_size
    fits = twice_sum >= all_longest
    mode = GatherMode.MAX_LEN if fits else GatherMode.SUM_LEN
    sign = ">=" if fits else "<"
    return by_mode[mode], f"2 * sum = {twice_sum} {sign} longest * replicas = {all_longest}: {mode.value}"


def _cheapest(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Returns the fastest candidate; of equal ones the first."""
    timed = [(candidate.cost.seconds, candidate) for candidate in candidates]
    if any(seconds is None for seconds, _ in timed):
        raise MachineError("the rule 'cost' needs the description of a machine")
    _, chosen = min(timed, key=lambda pair: pair[0] or 0.0)
    times = ", ".join(f"{candidate.mode.value} {1e6 * (seconds or 0):.1f} us" for seconds, candidate in timed)
    return chosen, f"{chosen.mode.value} is the fastest of {times}"
