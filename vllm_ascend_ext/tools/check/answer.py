# SPDX-License-Identifier: Apache-2.0
"""Puts verdicts into one document, which is printed as JSON or as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vllm_ascend_ext.integration.upstream.versions import Pair, installed_vllm
from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.verdicts import NAMES, Question, Verdict, judge, worst

_UNREADABLE, _REFUSED = 2, 1


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds what comes of one command.

    name: what tells it apart: its model, or where it is published. commands: how many are the same.
    error: why it cannot be judged, with no verdicts then.
    """

    name: str
    verdicts: tuple[Verdict, ...]
    error: str = ""
    commands: int = 1

    def of(self, feature: str) -> list[Verdict]:
        """Returns the verdicts about one feature, one an SoC."""
        return [verdict for verdict in self.verdicts if verdict.feature == feature]


def answer(name: str, question: Question, commands: int = 1) -> Answer:
    """Returns the answer to a question; an error is part of it."""
    try:
        return Answer(name, tuple(judge(question)), commands=commands)
    except CommandError as error:
        return Answer(name, (), str(error), commands)


def exit_status(answers: Sequence[Answer]) -> int:
    """Returns 0 when everything starts, verified or not; 1 when something is refused; 2 when one is unreadable."""
    if any(one.error for one in answers):
        return _UNREADABLE
    return _REFUSED * any(verdict.state == "refused" for one in answers for verdict in one.verdicts)


def features_in(answers: Iterable[Answer]) -> list[str]:
    """Returns the features that were asked about, in the registry's order."""
    asked = {verdict.feature for one in answers for verdict in one.verdicts}
    return [name for name in NAMES if name in asked]


def document(answers: Sequence[Answer], pair: Pair) -> dict[str, Any]:
    """Returns everything as plain values for JSON; `pair` is what was asked about."""
    versions = {"vllm": pair.vllm, "vllm_ascend": pair.vllm_ascend, "read_by": installed_vllm()}
    return {"pair": versions, "commands": [_command(one) for one in answers], "totals": totals(answers)}


def totals(answers: Sequence[Answer]) -> dict[str, dict[str, int]]:
    """Returns feature -> state -> number of commands."""
    found: dict[str, dict[str, int]] = {}
    for name in features_in(answers):
        counts: Counter[str] = Counter()
        for one in answers:
            if verdicts := one.of(name):
                counts[worst(verdicts)] += one.commands
        found[name] = {state: counts[state] for state in ("starts", "unverified", "refused")}
    unreadable = sum(one.commands for one in answers if one.error)
    return found | ({"unreadable": {"commands": unreadable}} if unreadable else {})


def _command(one: Answer) -> dict[str, Any]:
    if one.error:
        return {"name": one.name, "commands": one.commands, "error": one.error}
    features = {name: _feature(one.of(name)) for name in features_in([one])}
    return {"name": one.name, "commands": one.commands, "features": features}


def _feature(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "state": worst(verdicts),
        "reasons": [
            {"setting": reason.setting, "why": str(reason), "instead": reason.instead, "socs": socs}
            for reason, socs in reasons_of(verdicts).items()
        ],
        "classes": {
            verdict.soc: asdict(verdict.deployment) | {"tests": verdict.tests, "lacks": verdict.lacks}
            for verdict in verdicts
        },
    }


def reasons_of(verdicts: Sequence[Verdict]) -> Mapping[Any, list[str]]:
    """Returns refusal -> the SoCs on which it holds."""
    found: dict[Any, list[str]] = {}
    for verdict in verdicts:
        for reason in verdict.reasons:
            found.setdefault(reason, []).append(verdict.soc)
    return found
