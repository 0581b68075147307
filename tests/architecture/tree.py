# SPDX-License-Identifier: Apache-2.0
"""The checkout as the rules read it: its source files, and the two kinds of rule.

A rule yields violations, one text each: `path:line: what is wrong`, with the path from the checkout's root.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "vllm_ascend_ext"
PYTHON = (".py",)
CPP = (".cpp", ".h")
SOURCES = (*PYTHON, *CPP, ".sh")
SCRIPTS = (".sh", ".cmake", "CMakeLists.txt")
READ = (*SOURCES, ".def", ".cmake", "CMakeLists.txt", ".toml")
# kinds of source that no rule reads, so that none may be here
UNREAD = (".cc", ".cxx", ".c", ".hpp", ".hh", ".hxx", ".inl", ".inc", ".ipp", ".cu", ".cuh", ".pyx", ".pyi", ".in")
KNOWN = (*READ, *UNREAD)
BUILT = ("build", "dist", "out")  # folders at the root that .gitignore names


class Tree:
    """Every file under `root` whose name ends as one of READ or UNREAD does, without hidden and built folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = sorted(self._walk())

    def files(self, suffixes: tuple[str, ...] = SOURCES, under: str = "") -> Iterator[tuple[str, str]]:
        """Yields path and text of every file in the folder `under`, all the checkout when it is empty."""
        for path in self.paths:
            if path.endswith(suffixes) and path.startswith(f"{under}/" if under else ""):
                yield path, self.read(path)

    def read(self, path: str) -> str:
        """Returns the text of one file."""
        return (self.root / path).read_text(encoding="utf-8")

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root):
            inside = folder[len(str(self.root)) + 1 :]
            built = () if inside else BUILT
            folders[:] = [
                name for name in folders if not name.startswith((".", "__pycache__")) and name not in built
            ]
            yield from (f"{inside}/{name}" if inside else name for name in names if name.endswith(KNOWN))


class Rule(Protocol):
    """What the registry holds; `name` is how plants and failures call it."""

    @property
    def name(self) -> str: ...

    def find(self, tree: Tree) -> Iterator[str]: ...


FileCheck = Callable[[str, str], Iterator[str]]


@dataclass(frozen=True)
class FileRule:
    """Holds each file by itself to `check`, a pure function of its path and text.

    under: folders that the rule applies to; the whole checkout unless some are named.
    """

    check: FileCheck
    suffixes: tuple[str, ...]
    under: tuple[str, ...] = ("",)

    @property
    def name(self) -> str:
        return self.check.__name__

    def find(self, tree: Tree) -> Iterator[str]:
        for folder in self.under:
            files = list(tree.files(self.suffixes, folder))
            if not files:
                yield f"{folder}:1: has no file that {self.name} could read: the rule names a folder that moved"
            for path, text in files:
                yield from _violations(self.check, path, text)


@dataclass(frozen=True)
class TreeRule:
    """Holds the checkout as a whole to `check`."""

    check: Callable[[Tree], Iterator[str]]

    @property
    def name(self) -> str:
        return self.check.__name__

    def find(self, tree: Tree) -> Iterator[str]:
        return self.check(tree)


@functools.cache
def _violations(check: FileCheck, path: str, text: str) -> tuple[str, ...]:
    return tuple(check(path, text))
