# SPDX-License-Identifier: Apache-2.0
"""Where the functions of a C++ file begin and end, by its braces."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HIDDEN = re.compile(
    r"//[^\n]*|/\*.*?\*/|R\"(\w*)\(.*?\)\1\"|\"(?:[^\"\\\n]|\\.)*\"|(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)+'"
    r"|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*",
    re.DOTALL | re.MULTILINE,
)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define\b(?:[^\n\\]|\\[^\n]|\\\n)*", re.MULTILINE)
_SCOPE = re.compile(
    r"(?:template\s*<.*>\s*)?(?:(?:inline\s+)?namespace\b|extern\s*$|(?:class|struct|union|enum)\b)", re.DOTALL
)
# what may stand between a function's parameters and its body; a constructor's members are `: a_(a), b_{}`
_AFTER_PARAMETERS = re.compile(
    r"\)\s*(?:(?:const|noexcept|override|final|mutable|try|volatile|&&?)\s*|->[^;={}()]*|:(?!:)[^;]*)*$", re.DOTALL
)
_LAMBDA = re.compile(r"\[[^\[\]]*\]\s*(?:mutable\s*)?$")


def functions(source: str) -> Iterator[tuple[int, int]]:
    """Yields the first and the last line of every function that stands in a namespace, a class or a value."""
    code = _HIDDEN.sub(lambda hidden: re.sub(r"[^\n]", " ", hidden[0]), source)
    blocks: list[tuple[str, int, int]] = []  # kind, offset of the head's text, where the head began
    begin = 0  # where the head of the next block begins
    for mark in re.finditer(r"[{};]|(?<=\n) *(?:public|private|protected):", code):
        if mark[0] == "{":
            head = code[begin : mark.start()]
            kind = _kind(head) if not blocks or blocks[-1][0] != "function" else "function"
            blocks.append((kind, begin + len(head) - len(head.lstrip()), begin))
        elif mark[0] == "}" and blocks:
            kind, first, before = blocks.pop()
            if kind == "function":
                yield code.count("\n", 0, first) + 1, code.count("\n", 0, mark.end()) + 1
            elif kind == "value":  # `a_{1}` of a constructor: its head goes on
                begin = before
                continue
        begin = mark.end()


def macros(source: str) -> Iterator[tuple[int, int]]:
    """Yields the first and the last line of every macro."""
    for macro in _MACRO.finditer(source):
        first = source.count("\n", 0, macro.start()) + 1
        yield first, first + macro[0].count("\n")


def _kind(head: str) -> str:
    """Returns what a block in a namespace or a class is: a scope, a function, or a value's initialiser."""
    head = head.strip()
    if _LAMBDA.search(head) or _AFTER_PARAMETERS.search(head):
        return "value" if re.search(r"\)\s*:(?!:).*\w$", head, re.DOTALL) else "function"
    return "scope" if not head or _SCOPE.match(head) else "value"
