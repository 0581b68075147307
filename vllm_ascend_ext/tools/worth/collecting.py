# SPDX-License-Identifier: Apache-2.0
"""Predicts what collecting expert load and saving MTP output cost in a step, and what an even load would save."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ascend_ext.tools.worth.question import Question

# Vector operations for a routed id: our AscendC kernel counts 524,288 ids in 14.57 us on 48 cores of 64 lanes at
# 1.85 GHz (docs/performance.md, operators).
COUNT_OPERATIONS = 158.0
_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class LoadCost:
    """Holds what collecting expert load costs in a step, and what it can lead to.

    Attributes:
        count_s: seconds of counting on the main stream, all routed layers together; copies have a stream of their
            own.
        launch_s: the part of them that starting the kernels takes.
        saved_s: seconds that the busiest rank's experts take longer than with an even load.
    """

    count_s: float
    launch_s: float
    saved_s: float


@dataclass(frozen=True, slots=True)
class OutputCost:
    """Holds what saving MTP output costs in a step.

    Attributes:
        pack_s: seconds of packing on the device's main stream.
        launch_rows: rows that the next step has at most, known without waiting for the device.
    """

    pack_s: float
    launch_rows: int


def load_cost(question: Question) -> LoadCost | None:
    """Returns the cost of expert load; None for a model without routed experts."""
    sizes, rates = question.sizes, question.rates
    if not sizes.num_routed:
        return None
    own_ids = -(-question.tokens // question.tp) * sizes.top_k
    count_s = max(own_ids * _ID_BYTES / rates.memory, own_ids * COUNT_OPERATIONS / rates.vector)
    launch_s = sizes.num_routed * rates.launch_s
    even_s = question.products_s(sizes.routed_weights)
    return LoadCost(launch_s + sizes.num_routed * count_s, launch_s, (question.imbalance - 1) * even_s)


def output_cost(question: Question) -> OutputCost:
    """Returns the cost of MTP output: one kernel packs the step's tokens, whose bytes are few."""
    return OutputCost(question.rates.launch_s, question.requests * (question.sizes.drafts + 1))
