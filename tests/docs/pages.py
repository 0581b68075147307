# SPDX-License-Identifier: Apache-2.0
"""Reads the pages of the documentation: their lines, fences, links and headings, as GitHub and MkDocs see them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED_HEAD = "do not edit."

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)$")
_MARK = re.compile(r"^ *<!-- (?P<kind>runs|needs)(?:: (?P<what>[\w, ]+))? -->$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Fence:
    """A block of code in a page.

    line: the line of its first row of backquotes, from 1.
    mark: what the comment before it says: "runs", "runs: slow", "needs: npu"; "" without one.
    """

    page: str
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Returns all pages: README, CONTRIBUTING once it is there, the emulator's manual, the documentation."""
    single = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "emulator/README.md")]
    return [path for path in single if path.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fences(page: str, text: str) -> Iterator[Fence]:
    """Yields the fences of a page. Raises ValueError when the last one does not end."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        found = _FENCE.match(lines[number])
        if not found:
            number += 1
            continue
        mark = _MARK.match(lines[number - 1]) if number else None
        begin, indent = number, found["indent"]
        number += 1
        while number < len(lines) and lines[number] != indent + "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{begin + 1}: the fence does not end")
        body = "".join(line.removeprefix(indent) + "\n" for line in lines[begin + 1 : number])
        words = "" if mark is None else mark["kind"] + (f": {mark['what']}" if mark["what"] else "")
        yield Fence(page, begin + 1, found["language"], words, body)
        number += 1


def prose(text: str) -> list[tuple[int, str]]:
    """Returns the lines outside fences, with their numbers."""
    out, is_inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if _FENCE.match(line):
            is_inside = not is_inside
        elif not is_inside:
            out.append((number, line))
    return out


def links(text: str) -> Iterator[tuple[int, str]]:
    """Yields line and target of every link and picture outside fences and inline code."""
    for number, line in prose(text):
        for found in _LINK.finditer(re.sub(r"`[^`]*`", lambda code: "x" * len(code[0]), line)):
            yield number, found[1] or found[2]


def anchors(text: str) -> set[str]:
    """Returns the anchors of the headings of a page, by the rule that GitHub and MkDocs share for our headings."""
    found: set[str] = set()
    for _, line in prose(text):
        if heading := re.match(r"#+ (.+)", line):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return found


def num_words(text: str) -> int:
    """Counts words as `wc -w` does, comments of HTML left out."""
    return len(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split())
