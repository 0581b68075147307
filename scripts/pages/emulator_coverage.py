# SPDX-License-Identifier: Apache-2.0
"""Writes what came of other projects' tests on the emulator as the parts of a page: which, passed, failed, why."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

PUBLISHED = Path(__file__).resolve().parents[2] / "tests" / "assets" / "peers"  # what came of the suites
LINE_LENGTH = 115
FILES_LISTED = 80  # of a suite with more only the reasons are
REASONS_LISTED = 60  # the rest is counted in one row
_COUNTED = ("passed", "failed", "skipped")
_WHOSE = (  # (what a reason looks like, whose it is); the first counts
    (r"no operator \w+", "no such operator here"),
    (r"no (?:acl|rt|Hccl|Msprof)\w+|.*not emulated", "not emulated, by name"),
    (r"a device's", "needs a device"),
    (r"more memory", "needs more memory"),
    (r"the suite: ", "the suite's"),
    (r"no module |no \w+ in an installed", "needs a package"),
    (r"deadline", "too slow here"),
)
_OF_TABLES = (
    " Of the suite's {1} files {0} are to be run: those of which one operator at least is in the emulator's "
    "tables, or of which nothing says the operators. A file is named after the function that it tests; the "
    "function's operators are those that op-plugin's C++ and its list of functions name "
    "(`emulator/peers/covered.py`). What fails with `no operator NAME` needs one that is not in the tables "
    "beside one that is."
)


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def kept() -> list[dict[str, Any]]:
    """Returns the results that are kept, as `emulator.peers.results` has written them."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(PUBLISHED.glob("*.json"))]


def tables(contents: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Returns groups of lines: a table of all suites, and for each its reasons and, unless there are many, its
    files. contents: of result files."""
    rows = []
    for content in contents:
        files = content["files"].values()
        clean = sum(1 for found in files if not found.get("failed"))
        sums = [sum(found.get(kind, 0) for found in files) for kind in _COUNTED]
        run = f"{len(files)} of {content.get('files_of_tables', content['files_of_suite'])}"
        rows.append((content["title"], content["source"], run, clean, *sums))
    head = ("suite", "from", "files run", "without a failure", *_COUNTED)
    return [_table(head, rows), *(part for content in contents for part in _suite(content))]


def _suite(content: dict[str, Any]) -> list[list[str]]:
    files = content["files"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    words = f"{content['title']}, run with {versions}. {_commits(files)}"
    if "files_of_tables" in content:
        words += _OF_TABLES.format(content["files_of_tables"], content["files_of_suite"])
    parts = [[f"## {content['suite']}"], textwrap.wrap(words, LINE_LENGTH, break_on_hyphens=False)]
    for kind in ("failed", "skipped"):
        if reasons := _reasons(files, kind):
            parts.append(
                _table((f"why {kind}", "tests", "files", *(["whose"] if kind == "failed" else [])), reasons)
            )
    if len(files) <= FILES_LISTED:
        rows = [(_code(_short(name)), *(found.get(kind, 0) for kind in _COUNTED)) for name, found in files.items()]
        parts.append(_table(("file", *_COUNTED), rows))
    if reports := {name: found["race_reports"] for name, found in files.items() if "race_reports" in found}:
        parts.append(_table(("race reports in", "number"), ((_code(_short(f)), n) for f, n in reports.items())))
    return parts


def _commits(files: dict[str, Any]) -> str:
    """Returns a sentence that says at which commits of the emulator the results were taken."""
    numbers = Counter(found.get("commit", "") for found in files.values())
    named = [f"at {commit} ({number} files)" for commit, number in numbers.most_common() if commit]
    if number := numbers.get(""):
        named.append(f"before commits were noted, on 29 November 2026 ({number} files)")
    return f"Results were taken {', '.join(named)}."


def whose(reason: str) -> str:
    """Returns whose fault a failure for this reason is; "open" where nobody has judged it."""
    return next((words for pattern, words in _WHOSE if re.match(pattern, reason)), "open")


def _reasons(files: dict[str, Any], kind: str) -> list[tuple[object, ...]]:
    """Returns (reason, tests, files), of failures with whose they are, the most frequent first."""
    tests: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for found in files.values():
        for why, number in found.get(f"why_{kind}", {}).items():
            tests[why] += number
            places[why] += 1
    order = sorted(tests, key=lambda why: (-tests[why], why))
    judged = kind == "failed"
    rows: list[tuple[object, ...]] = [
        (_code(why), tests[why], places[why], *([whose(why)] if judged else [])) for why in order[:REASONS_LISTED]
    ]
    if others := order[REASONS_LISTED:]:
        numbers = (sum(tests[why] for why in others), sum(places[why] for why in others))
        rows.append((f"{len(others)} others", *numbers, *(["see the results"] if judged else [])))
    return rows


def _short(name: str) -> str:
    """Returns the last parts of a path, enough to find it."""
    return "/".join(PurePosixPath(name).with_suffix("").parts[-3:])
