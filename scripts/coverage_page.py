# SPDX-License-Identifier: Apache-2.0
"""Writes the page of how many published deployments each feature starts in, from what `check` says of them."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from vllm_ascend_ext import envs
from vllm_ascend_ext.commands.check import ALONE
from vllm_ascend_ext.integration.upstream.versions import PAIRS
from vllm_ascend_ext.tools.check import ASKED

PUBLISHED = Path(__file__).resolve().parent.parent / "tests" / "assets" / "deployments" / "published.jsonl"
Table = Callable[[Sequence[str], Iterable[Sequence[str]]], list[str]]


def answers_by_release() -> dict[tuple[str, str], list[Any]]:
    """Returns (vllm-ascend's release, the release to judge by) -> the answers about the commands published for it.

    Commands are judged by their own release; those of later ones by the first pair's, too.
    """
    envs.export(ALONE)
    with redirect_stdout(sys.stderr):
        from vllm_ascend_ext.tools.check.published import answer_rows, read_rows

        rows = list(read_rows(PUBLISHED))
        found: dict[tuple[str, str], list[Any]] = {}
        for judged_by, pair in itertools.product(PAIRS, PAIRS):
            if judged_by in (pair, PAIRS[0]):
                own = [row for row in rows if row["release"] == pair.vllm_ascend]
                answers = answer_rows(own, "published.jsonl", ASKED, pair=judged_by)
                found[pair.vllm_ascend, judged_by.vllm_ascend] = answers
    return found


def coverage(table: Table, paragraph: Callable[[str], list[str]]) -> list[Sequence[str]]:
    """Returns the parts of the page, each a group of lines."""
    groups = answers_by_release()
    parts: list[Sequence[str]] = [
        paragraph(
            "What `vllm-ascend-ext check` says of the `vllm serve` commands that vllm-ascend publishes for "
            "mixture-of-experts models in its tutorials and test configurations. *Starts* means that tests on the "
            "emulator have run this class of deployment in small, with tokens and counts compared: each of its "
            "values, and any two that meet in the feature in one engine (for `mtp_output` those of layout, drafts "
            "and transfer); *unverified* that nothing speaks against it and tests lack some of that; *refused* "
            "that start-up says why not. A command whose SoC is not said counts with the worse of A2 and A3. "
            "Commands are judged by the limits of the vllm-ascend that they are published for "
            "(`check --pair`), those of the later release by the earlier one's, too. How to ask about your own "
            "command: [check a command](check.md)."
        )
    ]
    for pair in PAIRS:
        answers = groups[pair.vllm_ascend, pair.vllm_ascend]
        number = sum(one.commands for one in answers)
        parts += [[f"## {pair.vllm_ascend}: {number} commands"], _totals(table, answers)]
        for (release, judged_by), others in groups.items():
            if release == pair.vllm_ascend != judged_by:
                parts += [[f"The same commands by the limits of {judged_by}:"], _totals(table, others)]
        parts += [["### Refused, by setting"], _reasons(table, answers)]
        if pair is PAIRS[0]:
            parts += [["### By class"], paragraph(_BY_CLASS), _classes(table, answers), paragraph(_LEFT)]
        parts += _unreadable(table, answers)
    return [*parts, ["## What tests have run"], paragraph(_ROWS), _verified(table)]


_BY_CLASS = (
    "Each command counts once in every dimension; where A2 and A3 differ, by A3. The numbers are commands that "
    "start verified / unverified / refused."
)
_LEFT = (
    "Of what does not start, some cannot be run here: weights in fp8, mxfp8, mxfp4 and w4a4, floats that only an "
    "A5 multiplies, and the emulator is an A2 or an A3; FlashComm v1 on one rank, which vllm-ascend itself "
    "refuses. Prefill context parallelism pads each rank's part of every sequence, so that `eplb_load` does not "
    "know the real rows by their number. The rest has not been run yet."
)
_ROWS = (
    "A row is one test, with the values that it runs; what a row leaves out is eager, ALLGATHER, unquantised, and "
    "off. The table is `vllm_ascend_ext/tools/check/verified/rows.py`."
)
_STATES = ("starts", "unverified", "refused")


def _percent(number: int, total: int) -> str:
    return f"{number} ({100 * number / max(total, 1):.0f} %)"


def _totals(table: Table, answers: Sequence[Any]) -> list[str]:
    from vllm_ascend_ext.tools.check.answer import totals

    rows = []
    for feature, counts in totals(answers).items():
        if feature != "unreadable":
            whole = sum(counts.values())
            rows.append((f"`{feature}`", *(_percent(counts[state], whole) for state in _STATES)))
    return table(("feature", "starts", "unverified", "refused"), rows)


def _reasons(table: Table, answers: Sequence[Any]) -> list[str]:
    from vllm_ascend_ext.tools.check.answer import features_in
    from vllm_ascend_ext.tools.check.summary import settings_of

    rows = [
        (f"`{feature}`", ", ".join(f"`{name}`" for name in setting.split(", ")), str(number))
        for feature in features_in(answers)
        for setting, number in sorted(settings_of(answers, feature).items(), key=lambda item: (-item[1], item[0]))
    ]
    return table(("feature", "setting", "commands"), rows)


def _classes(table: Table, answers: Sequence[Any]) -> list[str]:
    from vllm_ascend_ext.tools.check.answer import features_in
    from vllm_ascend_ext.tools.check.deployment_class import DIMENSIONS

    features = features_in(answers)
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for one in answers:
        for feature in features:
            for verdict in one.of(feature)[-1:]:
                for dimension in DIMENSIONS:
                    value = getattr(verdict.deployment, dimension)
                    counts[dimension, value, feature, verdict.state] += one.commands
    values = {(dimension, value) for dimension, value, _, _ in counts}

    def numbers(dimension: str, value: str) -> list[str]:
        return [
            " / ".join(str(counts[dimension, value, feature, state]) for state in _STATES) for feature in features
        ]

    rows = [
        (dimension.replace("_", " "), value, *numbers(dimension, value))
        for dimension, value in sorted(values, key=lambda item: (DIMENSIONS.index(item[0]), item[1]))
    ]
    return table(("dimension", "value", *(f"`{feature}`" for feature in features)), rows)


def _unreadable(table: Table, answers: Sequence[Any]) -> list[Sequence[str]]:
    counts: Counter[str] = Counter()
    for one in answers:
        if one.error:
            counts[one.error.partition(":")[0]] += one.commands
    rows = [(why, str(number)) for why, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return [["### Cannot be judged"], table(("why", "commands"), rows)] if rows else []


def _verified(table: Table) -> list[str]:
    from vllm_ascend_ext.tools.check.verified.rows import ROWS

    rows = [
        (
            row.pair.vllm_ascend,
            ", ".join(f"`{feature}`" for feature in row.features),
            "; ".join(f"{name.replace('_', ' ')}: {', '.join(values)}" for name, values in row.values.items()),
            f"`{row.test}`",
        )
        for row in ROWS
    ]
    return table(("vllm-ascend", "feature", "class", "test"), rows)
