# SPDX-License-Identifier: Apache-2.0
"""What rules ask of Python source: its nodes, and the absolute names of everything that it imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import PurePosixPath


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """Returns every node of the source's syntax tree."""
    return tuple(ast.walk(ast.parse(source)))


def is_dynamic_import(node: ast.AST) -> bool:
    """Tells whether the node is a call of import_module, __import__ or find_spec."""
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
    return name in ("import_module", "__import__", "find_spec")


@functools.cache
def imports(path: str, source: str) -> tuple[tuple[int, str], ...]:
    """Returns line and absolute dotted name of every import; `from a import b` gives a.b."""
    return tuple(_imports(path, source))


def _imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    here = PurePosixPath(path).parts[:-1]
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif is_dynamic_import(node) and node.args and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)
