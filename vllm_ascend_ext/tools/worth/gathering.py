# SPDX-License-Identifier: Apache-2.0
"""Predicts what the DP gather saves in a step, for rows spread over the replicas in several ways."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ascend_ext.dp_gather.machine import describe
from vllm_ascend_ext.dp_gather.plan import GatherPlan, make_plan
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology
from vllm_ascend_ext.tools.worth.model_sizes import ELEMENT_BYTES
from vllm_ascend_ext.tools.worth.question import Question
from vllm_ascend_ext.tools.worth.scattering import ways

DECODING_ROWS = 32  # of a replica beside one that prefills
_LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Spread:
    """Holds one way in which the step's rows lie on the replicas.

    Attributes:
        name: what it is, in words.
        padded_s: seconds of all routed layers' exchanges as vLLM does them, every replica padded to the longest.
        planned_s: seconds by the rule "cost".
        plan: plan of one layer.
    """

    name: str
    padded_s: float
    planned_s: float
    plan: GatherPlan


def spreads(question: Question) -> list[Spread]:
    """Returns the spreads of the step's rows; none with one replica or without routed experts."""
    dp, tokens = question.dp, question.tokens
    if dp == 1 or not question.sizes.num_routed:
        return []
    return [
        _spread(question, "all alike", [tokens] * dp),
        _spread(question, "every other one half", [tokens // (1 + index % 2) for index in range(dp)]),
        _spread(question, f"one, others {DECODING_ROWS} rows", [tokens] + [min(DECODING_ROWS, tokens)] * (dp - 1)),
    ]


def step_s(question: Question) -> float:
    """Returns the least time of a step without features: what differs between the ways of running its layers, the
    exchange of alike replicas' rows by all-gather, and what no feature changes."""
    exchanged_s = next((spread.padded_s for spread in spreads(question)), 0.0)
    return ways(question)[0].seconds + exchanged_s + question.rest_s


def _spread(question: Question, name: str, counts: list[int]) -> Spread:
    sizes, topology = question.sizes, Topology(question.dp, question.tp)
    row = sizes.hidden * ELEMENT_BYTES
    plan = make_plan(
        counts,
        topology,
        RowWidths((row, sizes.num_experts * _LOGIT_BYTES), row),
        rule="cost",
        machine=describe(question.machine.name, topology.num_ranks),
    )
    seconds = {candidate.mode: candidate.cost.seconds or 0.0 for candidate in plan.candidates}
    layers = sizes.num_routed
    return Spread(name, layers * seconds[GatherMode.MAX_LEN], layers * seconds[plan.mode], plan)
