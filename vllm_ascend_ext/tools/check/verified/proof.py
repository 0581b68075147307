# SPDX-License-Identifier: Apache-2.0
"""Tells whether tests together verify a feature in a class of deployments, and what they lack.

A class is one of tens of thousands of combinations, of which no table of tests runs more than some hundred. So it
counts as verified when tests have run every value of it, and any two of its values that meet in the feature
together in one engine (a table that covers pairs). Which dimensions meet in a feature: `MEET`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

from vllm_ascend_ext.tools.check.deployment_class import DIMENSIONS, DeploymentClass
from vllm_ascend_ext.tools.check.verified.row import VerifiedRow

Value = tuple[str, str]  # a dimension, and its value
Fact = frozenset[Value]  # a value by itself, or two that an engine has run together

# What `mtp_output` reads of a step comes after the last layer: the sampler's output, the step's requests and
# the numbers of its drafts (integration/mtp_output/runner_outputs.py, called by `ExtModelRunner._sample`). Kind
# of attention, dispatch, widths of weights and the split of rows end before the logits. No graph holds a
# sampling: what is captured is `_dummy_run`, which does not call `_sample`, and `RecordCopier.launch` refuses
# to be captured. So these dimensions need no pairs; a value counts once a test has run it, and not before. It does
# see ranks, stages, drafts and schedulers, and the steps without a pass that KV transfer brings.
MEET: Mapping[str, tuple[str, ...]] = {"mtp_output": ("layout", "drafts", "transfer")}

# A path that says nothing of the widths of its weights may hold any of those that start-up lets through.
_UNSAID_WEIGHTS: Mapping[str, tuple[str, ...]] = {"ascend": ("w8a8", "w4a8")}


@dataclass(frozen=True, slots=True)
class Proof:
    """Holds what tests say of a feature in a class.

    tests: the tests that verify it together, "file::function" each, those that show most first.
    lacks: the values and pairs that no test has run; () when it is verified.
    """

    tests: tuple[str, ...]
    lacks: tuple[str, ...]

    @property
    def is_verified(self) -> bool:
        """Returns whether tests have run all that the class needs."""
        return not self.lacks


def proof_of(feature: str, deployment: DeploymentClass, rows: Iterable[VerifiedRow]) -> Proof:
    """Returns what the rows' tests say of a feature in a class of deployments."""
    needed = _facts(feature, {name: (getattr(deployment, name),) for name in DIMENSIONS})
    shown = [(row.test, _shown(feature, row) & needed) for row in rows if feature in row.features]
    missing, tests = set(needed), list[str]()
    while shown:
        test, facts = max(shown, key=lambda item: len(item[1] & missing))
        if not facts & missing:
            break
        tests.append(test)
        missing -= facts
    return Proof(tuple(dict.fromkeys(tests)), _in_words(missing))


@functools.cache
def _shown(feature: str, row: VerifiedRow) -> frozenset[Fact]:
    return _facts(feature, {name: row.of(name) for name in DIMENSIONS})


def _facts(feature: str, values: Mapping[str, Iterable[str]]) -> frozenset[Fact]:
    """Returns the facts that values make up: each alone, and each with each of the other dimensions that meet."""
    facts = {frozenset({(name, said)}) for name in values for value in values[name] for said in _said(name, value)}
    for names in combinations(MEET.get(feature, DIMENSIONS), 2):
        ways = ([(name, way) for value in values[name] for way in _ways(name, value)] for name in names)
        facts |= {frozenset(pair) for pair in product(*ways)}
    return frozenset(facts)


def _said(dimension: str, value: str) -> tuple[str, ...]:
    return _UNSAID_WEIGHTS.get(value, (value,)) if dimension == "weights" else (value,)


def _ways(dimension: str, value: str) -> tuple[str, ...]:
    """Returns what of a value meets others: of a dispatch each way, of which a step takes one."""
    return tuple(value.split(", ")) if dimension == "dispatch" else _said(dimension, value)


def _in_words(missing: set[Fact]) -> tuple[str, ...]:
    alone = {value for fact in missing if len(fact) == 1 for value in fact}
    told = [fact for fact in missing if len(fact) == 1 or not fact & alone]
    return tuple(sorted(" with ".join(_word(*value) for value in sorted(fact, key=_order)) for fact in told))


def _order(value: Value) -> int:
    return DIMENSIONS.index(value[0])


def _word(dimension: str, value: str) -> str:
    return f"no {dimension.replace('_', ' ')}" if value == "none" else value
