# SPDX-License-Identifier: Apache-2.0
"""Predicts what scattered attention input costs and saves in a step, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ascend_ext.attn_scatter.cost import PartTime, layers_time, min_tokens
from vllm_ascend_ext.attn_scatter.cut_cost import PayingSteps, paying_steps, saved_s
from vllm_ascend_ext.attn_scatter.layer_cost import Way
from vllm_ascend_ext.tools.worth.question import Question

_ASCEND = ("a2", "a3", "a3-roce")


@dataclass(frozen=True, slots=True)
class WayTime:
    """Holds what one way of running the layers takes in a step.

    Attributes:
        name: "plain", "scattered", "full" or "full, fp8_wire".
        parts: seconds of the parts that differ between the ways, all layers together, by name.
        calls_s: seconds that the collectives take however small they are.
        min_tokens: rows from which on this way is faster than the plain one; None for never, and for that one.
    """

    name: str
    parts: Mapping[str, PartTime]
    calls_s: float
    min_tokens: int | None

    @property
    def seconds(self) -> float:
        return self.calls_s + sum(part.seconds for part in self.parts.values())


@dataclass(frozen=True, slots=True)
class OneGather:
    """Holds what one gather in each layer saves of a step where FlashComm v1 divides the rows.

    saved_s: below 0 where it costs. steps: those in which it pays; None for none.
    """

    saved_s: float
    steps: PayingSteps | None


def one_gather(question: Question) -> OneGather | None:
    """Returns what one gather saves; None where attention gathers once already, and for other machines than those
    of vllm-ascend."""
    layers = question.sizes.cut_layers()
    if question.tp == 1 or not layers or question.machine.name not in _ASCEND:
        return None
    rates, weights = question.rates, question.weights
    saved = saved_s(layers, question.tokens, question.tp, rates, weights)
    return OneGather(saved, paying_steps(layers, question.tp, rates, weights))


def ways(question: Question) -> list[WayTime]:
    """Returns the plain way, then those of the feature; the plain one alone with one tensor-parallel rank."""
    found = [_way(question, Way.PLAIN, fp8_wire=False)]
    if question.tp > 1:
        found += [_way(question, way, fp8_wire=False) for way in (Way.SCATTERED, Way.FULL)]
        if question.rates.fp8 is not None:
            found.append(_way(question, Way.FULL, fp8_wire=True))
    return found


def _way(question: Question, way: Way, *, fp8_wire: bool) -> WayTime:
    layers = question.sizes.layers(on_shards=question.on_shards)
    rates, tp, weights = question.rates, question.tp, question.weights
    times = layers_time(layers, question.tokens, tp, rates, way, fp8_wire=fp8_wire, weights=weights)
    calls = sum(time.num_calls for time in times.values()) if tp > 1 else 0
    threshold = None
    if way is not Way.PLAIN:
        is_full = way is Way.FULL
        threshold = min_tokens(layers, tp, rates, full=is_full, fp8_wire=fp8_wire, weights=weights)
    name = f"{way.value}, fp8_wire" if fp8_wire else way.value
    return WayTime(name, times, calls * rates.call_s(tp), threshold)
