# SPDX-License-Identifier: Apache-2.0
"""What holds for every folder and file (license, name, number of files), and what is shipped or runs alone."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

import tomllib
from setuptools import find_packages

from scripts.structure import MAX_FILE_LINES, MAX_FOLDER_FILES
from tests.architecture.python_rules import is_vague, says_nothing
from tests.architecture.tree import PACKAGE, READ, SCRIPTS, SOURCES, UNREAD, FileRule, Rule, Tree, TreeRule

LICENSE = "SPDX-License-Identifier: Apache-2.0"
LICENSED = tuple(suffix for suffix in READ if suffix != ".toml")
VAGUE = ("common", "shared")


# lists of files and settings of CMake, by names that setuptools and CMake fix
NO_SOURCES = ("MANIFEST.in", ".cmake.in")


def license_line(path: str, source: str) -> Iterator[str]:
    """Every file begins with its license; a script may name its interpreter first."""
    lines = source.splitlines()[:2]
    if lines and lines[0].startswith("#!"):
        lines.pop(0)
    comment = "//" if path.endswith((".cpp", ".h", ".def")) else "#"
    if not lines or lines[0] != f"{comment} {LICENSE}":
        yield f"{path}:1: no SPDX line"


def file_names(path: str, _: str) -> Iterator[str]:
    """No file and no folder is named utils, maybe or v1."""
    for part in PurePosixPath(path).parts:
        stem = part.partition(".")[0]
        if stem in VAGUE or stem.endswith("_common") or is_vague(stem) or says_nothing(stem):
            yield f"{path}:1: the name {part} says nothing"


def file_kinds(tree: Tree) -> Iterator[str]:
    """C++ is in .cpp and .h, Python in .py: what ends otherwise is read by no rule."""
    unread = (path for path in tree.paths if path.endswith(UNREAD) and not path.endswith(NO_SOURCES))
    yield from (f"{path}:1: a kind of source that no rule reads" for path in unread)


def script_sizes(path: str, source: str) -> Iterator[str]:
    """Scripts of the shell and of CMake stay small, as sources do."""
    if (num_lines := len(source.splitlines())) > MAX_FILE_LINES:
        yield f"{path}:1: {num_lines} lines, more than {MAX_FILE_LINES}"


def folder_sizes(tree: Tree) -> Iterator[str]:
    """A folder holds few source files: a header and its source count as one, __init__.py and tables not."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path in tree.paths:
        file = PurePosixPath(path)
        if file.suffix in SOURCES and file.name != "__init__.py":
            folders[str(file.parent)].add(file.stem)
    for folder, stems in sorted(folders.items()):
        if len(stems) > MAX_FOLDER_FILES:
            yield f"{folder}:1: {len(stems)} source files, more than {MAX_FOLDER_FILES}"


def launcher_alone(tree: Tree) -> Iterator[str]:
    """The emulator's launcher needs the standard library only: it runs before there is an environment."""
    code = f"import sys; sys.path.insert(0, {str(tree.root)!r}); import emulator.__main__"
    done = subprocess.run([sys.executable, "-BISc", code], capture_output=True, text=True)
    if done.returncode:
        yield f"emulator/__main__.py:1: needs more than the standard library: {done.stderr.splitlines()[-1]}"


def wheel_contents(tree: Tree) -> Iterator[str]:
    """The wheel holds the package and nothing beside it, no emulator and no tests."""
    find = tomllib.loads(tree.read("pyproject.toml"))["tool"]["setuptools"]["packages"]["find"]
    shipped = {package.split(".")[0] for package in find_packages(str(tree.root), **find)}
    if shipped != {PACKAGE}:
        yield f"pyproject.toml:1: the wheel would hold {', '.join(sorted(shipped)) or 'nothing'}"


RULES: list[Rule] = [
    FileRule(license_line, LICENSED),
    FileRule(file_names, READ),
    FileRule(script_sizes, SCRIPTS),
    TreeRule(file_kinds),
    TreeRule(folder_sizes),
    TreeRule(launcher_alone),
    TreeRule(wheel_contents),
]
