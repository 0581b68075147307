# SPDX-License-Identifier: Apache-2.0
"""Prints answers as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vllm_ascend_ext.integration.upstream.versions import Pair, installed_vllm
from vllm_ascend_ext.tools.check.answer import Answer, features_in, reasons_of, totals
from vllm_ascend_ext.tools.check.verdicts import Verdict, worst

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"starts": "✓ starts", "unverified": "? starts, unverified", "refused": "✗ refused"}
_WIDTH, _INDENT, _SHOWN = 100, 4, 6


def print_answer(answer: Answer, console: Console) -> None:
    """Prints what comes of one command, feature by feature."""
    for name in features_in([answer]):
        verdicts = answer.of(name)
        console.print(f"{name}: {_SIGNS[worst(verdicts)]}", markup=False)
        for line in _lines(verdicts):
            console.print(
                textwrap.fill(line, _WIDTH, initial_indent="  - ", subsequent_indent=" " * _INDENT), markup=False
            )


def print_pair(pair: Pair, console: Console) -> None:
    """Prints for which versions the answers are, and whose parser has read the commands where it is not theirs."""
    installed = installed_vllm()
    reader = "" if installed == pair.vllm else f"; commands were read by vLLM {installed}, which is installed here"
    console.print(f"For {pair}{reader}.", markup=False)


def _lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for reason, socs in reasons_of(verdicts).items():
        where = "" if len(socs) == len(verdicts) else f" [on {', '.join(socs)}]"
        yield f"{reason}{where}"
    for verdict in verdicts:
        if verdict.state == "unverified":
            yield f"{verdict.soc}: {verdict.deployment}"
            yield f"no test has run on {verdict.soc}: {_some(verdict.lacks)}"
        else:
            yield from (f"{verdict.soc}: {test}" for test in verdict.tests)


def _some(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return "; ".join(words[:_SHOWN]) + (f"; {more} more" if more > 0 else "")


def print_totals(answers: Sequence[Answer], console: Console) -> None:
    """Prints how many commands each feature starts with, the reasons of the rest, and what cannot be read."""
    for name, counts in totals(answers).items():
        console.print(
            f"{name}: " + ", ".join(f"{number} {state}" for state, number in counts.items()), markup=False
        )
        for setting, number in settings_of(answers, name).most_common():
            console.print(f"    {number:5d}  {setting}", markup=False)
    for answer in answers:
        if answer.error:
            console.print(f"{answer.name}: {answer.error}", markup=False)


def settings_of(answers: Sequence[Answer], feature: str) -> Counter[str]:
    """Returns the settings that refuse a feature, with the number of commands of each."""
    counts: Counter[str] = Counter()
    for answer in answers:
        for setting in {reason.setting for reason in reasons_of(answer.of(feature))}:
            counts[setting] += answer.commands
    return counts
