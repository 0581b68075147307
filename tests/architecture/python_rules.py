# SPDX-License-Identifier: Apache-2.0
"""What a file of Python may hold: names, lengths, and where it may ask for the environment and the device."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from scripts.structure import MAX_FILE_LINES, MAX_FUNCTION_LINES
from tests.architecture.python_source import nodes
from tests.architecture.tree import PACKAGE, PYTHON, FileRule, Rule

DEVICE_TYPES = {"cpu", "cuda", "npu"}
DEVICE_FOLDERS = (f"{PACKAGE}/device/", f"{PACKAGE}/integration/stacks/")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def environment(path: str, source: str) -> Iterator[str]:
    """The environment is read and written in envs.py only."""
    if path == f"{PACKAGE}/envs.py":
        return
    for node in nodes(source):
        imported = (
            {alias.name for alias in node.names} & ENVIRONMENT
            if isinstance(node, ast.ImportFrom) and node.module == "os"
            else set()
        )
        if imported or (isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT):
            yield f"{path}:{node.lineno}: {ast.unparse(node)} belongs in envs.py"


def _literals(node: ast.AST) -> set[object]:
    return {child.value for child in ast.walk(node) if isinstance(child, ast.Constant)}


def device_branches(path: str, source: str) -> Iterator[str]:
    """Outside DEVICE_FOLDERS a capability is asked for, not the type of the device."""
    if path.startswith(DEVICE_FOLDERS):
        return
    for node in nodes(source):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            compared = set().union(*map(_literals, sides)) & DEVICE_TYPES
            asked = [ast.unparse(side) for side in sides if not isinstance(side, ast.Constant)]
            if compared and any("device" in text or text.endswith(".type") for text in asked):
                yield f"{path}:{node.lineno}: branches on a device type: {ast.unparse(node)}"
        elif isinstance(node, ast.Match):
            if {value for case in node.cases for value in _literals(case.pattern)} & DEVICE_TYPES:
                yield f"{path}:{node.lineno}: branches on a device type: match {ast.unparse(node.subject)}"
        elif isinstance(node, ast.Attribute) and node.attr in ("is_cuda", "is_npu", "is_cpu"):
            yield f"{path}:{node.lineno}: branches on a device type: {ast.unparse(node)}"


def says_nothing(name: str) -> bool:
    """Tells whether an identifier hides behind maybe or v1."""
    return bool(re.search(r"(^|_)(maybe|v1)(_|$)", name)) or bool(re.search(r"(Maybe|V1)", name))


def names(path: str, source: str) -> Iterator[str]:
    """No maybe and no v1 in a name. Methods under integration/ may override vLLM's of such names."""
    overrides: set[int] = set()
    if path.startswith(f"{PACKAGE}/integration/"):
        classes = [node for node in nodes(source) if isinstance(node, ast.ClassDef)]
        overrides = {id(child) for node in classes for child in node.body}
    for node in nodes(source):
        name = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if name and says_nothing(name) and id(node) not in overrides:
            yield f"{path}:{node.lineno}: the name {name}"


def sizes(path: str, source: str) -> Iterator[str]:
    """Files and functions stay small."""
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}:1: {num_lines} lines, more than {MAX_FILE_LINES}"
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name}: {num_lines} lines, more than {MAX_FUNCTION_LINES}"


RULES: list[Rule] = [
    FileRule(environment, PYTHON, (PACKAGE,)),
    FileRule(device_branches, PYTHON, (PACKAGE,)),
    FileRule(names, PYTHON),
    FileRule(sizes, PYTHON),
]
