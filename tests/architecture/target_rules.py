# SPDX-License-Identifier: Apache-2.0
"""What an import of our own modules names is there, in tests and scripts too, which mypy does not read."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from tests.architecture.python_source import imports, nodes
from tests.architecture.tree import PACKAGE, PYTHON, Rule, Tree, TreeRule

TOPS = (PACKAGE, "emulator", "tests", "benchmarks", "scripts")


def import_targets(tree: Tree) -> Iterator[str]:
    """Every module and name that is imported from this checkout is there."""
    files = dict(tree.files(PYTHON))
    folders = {path.rpartition("/")[0] for path in files}
    for path, source in files.items():
        for line, name in imports(path, source):
            parts = name.split(".")
            if parts[0] in TOPS and not _is_there(parts, files, folders):
                yield f"{path}:{line}: imports {name}, which is not there"


def _is_there(parts: list[str], files: dict[str, str], folders: set[str]) -> bool:
    whole, parent, last = "/".join(parts), "/".join(parts[:-1]), parts[-1]
    if f"{whole}.py" in files or any(f"{folder}/".startswith(f"{whole}/") for folder in folders):
        return True
    source = files.get(f"{parent}.py", files.get(f"{parent}/__init__.py"))
    return source is not None and (last == "*" or last in _names(source) or "__getattr__" in _names(source))


@functools.cache
def _names(source: str) -> frozenset[str]:
    """Returns every name that the source binds anywhere, a superset of what can be imported from it."""
    found = set()
    for node in nodes(source):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return frozenset(found)


RULES: list[Rule] = [TreeRule(import_targets)]
