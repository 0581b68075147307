# SPDX-License-Identifier: Apache-2.0
"""Reads what a module defines from its source, without importing it (`Outline`).

`ast` takes a third of a second for the source of vLLM's runner, and importing it seconds; the start-up check reads
two dozen modules. So definitions are found line by line, in a copy of the source whose strings and comments are
blank, and only the parameter list that is asked for goes through `ast`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

_STRING_OR_COMMENT = re.compile(
    r"#[^\n]*"
    r"|'''(?:[^\\]|\\.)*?'''"
    r'|"""(?:[^\\]|\\.)*?"""'
    r"|'(?:[^'\\\n]|\\.)*'"
    r'|"(?:[^"\\\n]|\\.)*"',
    re.DOTALL,
)
_STATEMENT = re.compile(
    r"^(?P<indent>    )?(?:"
    r"(?P<block>(?:if|elif|else|try|except|finally|with)\b[^\n]*)"
    r"|(?:async )?(?P<kind>def|class) (?P<defined>\w+)"
    r"|from (?P<source>[.\w]+) import (?P<imported>\([^)]*\)|[^\n]*)"
    r"|(?P<assigned>\w+)[ ]*(?::(?!=)[^\n]*|=(?!=))"
    r"|(?P<other>[A-Za-z_@])"
    r")",
    re.MULTILINE,
)
_ON_SELF = re.compile(r"self\.(\w+)\s*(?::(?!=)[^=\n]*)?=(?!=)")
_NOT_NEWLINE = re.compile(r"[^\n]")


@dataclass(frozen=True, slots=True)
class Definition:
    """Describes where a name is bound.

    kind: "function", "class", "value", "import", or "instance" where a method assigns `self.name`.
    start: offset in the source.
    source: for an import, the module and the name there.
    """

    kind: str
    start: int
    source: tuple[str, str] | None = None


@dataclass(slots=True)
class _Class:
    end: int
    members: dict[str, Definition] = field(default_factory=dict)


class Outline:
    """Finds the names that a module binds at its top level, conditions included, and those that its classes bind
    in their own bodies. Imports for type checkers alone bind nothing.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._code = _STRING_OR_COMMENT.sub(_blank, text)
        self._names: dict[str, Definition] = {}
        self._classes: dict[str, _Class] = {}
        self._read_statements()
        self._read_instances()

    def find(self, *path: str) -> Definition | None:
        """Returns the definition of a name, or of a class's own member; None when there is none."""
        if len(path) == 1:
            return self._names.get(path[0])
        owner = self._classes.get(path[0])
        return None if owner is None or len(path) > 2 else owner.members.get(path[1])

    def parameters(self, *path: str) -> tuple[str, ...] | None:
        """Returns the parameters' names, a constructor's without `self`; None of what is no function or class."""
        found = self.find(*path)
        if found is None:
            return None
        if found.kind == "function":
            return self._signature(found.start)
        if found.kind != "class":
            return None
        members = self._classes[path[-1]].members
        constructor = members.get("__init__")
        if constructor is not None:
            return self._signature(constructor.start)[1:]
        return tuple(name for name, member in members.items() if member.kind == "value")  # fields of a dataclass

    def _read_statements(self) -> None:
        owner: _Class | None = None
        in_condition = False
        for match in _STATEMENT.finditer(self._code):
            if match["indent"] is None:
                if owner is not None:
                    owner.end = match.start()
                owner = None
                in_condition = match["block"] is not None and "TYPE_CHECKING" not in match["block"]
            elif owner is None and not in_condition:
                continue  # a line in the body of a function
            names = self._names if owner is None else owner.members
            if match["defined"]:
                kind = "class" if match["kind"] == "class" else "function"
                names[match["defined"]] = Definition(kind, match.start())
                if match["indent"] is None and kind == "class":
                    owner = self._classes[match["defined"]] = _Class(len(self._code))
            elif match["imported"]:
                for name, original in _imported(match["imported"]):
                    names[name] = Definition("import", match.start(), (match["source"], original))
            elif match["assigned"]:
                names.setdefault(match["assigned"], Definition("value", match.start()))

    def _read_instances(self) -> None:
        classes = sorted(
            ((self._names[name].start, owner) for name, owner in self._classes.items()), key=lambda row: row[0]
        )
        following = iter(classes)
        start, owner = next(following, (len(self._code), None))
        for match in _ON_SELF.finditer(self._code):
            while owner is not None and match.start() >= owner.end:
                start, owner = next(following, (len(self._code), None))
            if owner is not None and match.start() >= start:
                owner.members.setdefault(match[1], Definition("instance", match.start()))

    def _signature(self, start: int) -> tuple[str, ...]:
        begin = end = self._code.index("(", start)
        depth = 0
        for match in re.compile(r"[()]").finditer(self._code, begin):
            depth += 1 if match[0] == "(" else -1
            if depth == 0:
                end = match.end()
                break
        (function,) = ast.parse(f"def f{self._text[begin:end]}: pass").body
        assert isinstance(function, ast.FunctionDef)
        arguments = function.args
        return tuple(x.arg for x in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def _blank(match: re.Match[str]) -> str:
    text = match[0]
    return _NOT_NEWLINE.sub(" ", text) if "\n" in text else " " * len(text)


def _imported(text: str) -> list[tuple[str, str]]:
    """Returns (name, original name) of all that an import brings; `text` is what stands behind `import`."""
    names = []
    for part in text.strip("()").split(","):
        words = part.split()
        if words:
            names.append((words[-1], words[0]))
    return names
