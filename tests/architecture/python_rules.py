# SPDX-License-Identifier: Apache-2.0
"""What a file of Python may hold: names, lengths, beginnings of docstrings, and where it may ask for the device
and the environment, and set attributes of objects that are not ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from scripts.structure import MAX_FILE_LINES, MAX_FUNCTION_LINES
from tests.architecture.python_source import nodes
from tests.architecture.tree import PACKAGE, PYTHON, FileRule, Rule
from tests.seams.foreign_attributes import foreign_attributes
from tests.support.docstring_rule import docstring_violations

DEVICE_TYPES = {"cpu", "cuda", "npu"}
DEVICE_FOLDERS = (f"{PACKAGE}/device/", f"{PACKAGE}/integration/stacks/")
DEVICE_QUESTIONS = {"is_cuda", "is_npu", "is_cpu", "is_xpu", "is_cuda_alike", "is_privateuseone", "device_name"}
DEVICE_METHODS = {"startswith", "endswith", "get", "__eq__", "__ne__", "eq", "ne", "count", "find", "index"}
BEFORE_DEVICES = {  # they decide whether there is a device at all
    f"{PACKAGE}/integration/startup/plugin.py": {"torch.cuda.is_available", "torch.xpu.is_available"},
    f"{PACKAGE}/integration/cpu_platform/streams.py": {"torch.cuda.is_available"},
}
VERSION = "importlib.metadata.version('vllm')"  # "0.23.0+cpu": how vLLM was built
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "expandvars"}
FLAGS = {"routes_itself"}  # what stacks differ in is asked of a stack (integration/stacks/), by no flag


def environment(path: str, source: str) -> Iterator[str]:
    """The environment is read and written in envs.py only."""
    if path == f"{PACKAGE}/envs.py":
        return
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            is_found = bool(names & ENVIRONMENT) or (node.module == "os" and "*" in names)
        else:  # by its name, or by a text that names it: getattr(os, "environ")
            is_found = getattr(node, "attr", getattr(node, "value", None)) in (*ENVIRONMENT,)
        if is_found:
            yield f"{path}:{getattr(node, 'lineno', 1)}: {ast.unparse(node)} belongs in envs.py"


def _literals(node: ast.AST, constants: set[str]) -> set[str]:
    """Device types that an expression holds: "npu", "npu:0", and names of the file that stand for them."""
    values = [child.value for child in ast.walk(node) if isinstance(child, ast.Constant)]
    types = {value.partition(":")[0] for value in values if isinstance(value, str)} & DEVICE_TYPES
    return types | {child.id for child in ast.walk(node) if isinstance(child, ast.Name) and child.id in constants}


def device_branches(path: str, source: str) -> Iterator[str]:
    """Outside DEVICE_FOLDERS a capability is asked for, not the type of the device."""
    if path.startswith(DEVICE_FOLDERS):
        return
    constants = {
        target.id
        for node in nodes(source)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and _literals(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes(source):
        asked = _asked_of_a_device(node, constants)
        if asked and asked not in BEFORE_DEVICES.get(path, ()) and VERSION not in asked:
            yield f"{path}:{getattr(node, 'lineno', 1)}: branches on a device type: {asked}"


def _asked_of_a_device(node: ast.AST, constants: set[str]) -> str:
    """Returns the text of a node that asks for the type of a device, empty for any other."""
    if isinstance(node, ast.Compare):
        is_found = any(_literals(side, constants) for side in (node.left, *node.comparators))
    elif isinstance(node, ast.Match):
        is_found = any(_literals(case.pattern, constants) for case in node.cases)
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        is_found = any(key is not None and _literals(key, constants) for key in node.value.keys)
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        arguments = [*node.args, *(getattr(node.func, "value", node).keys if _is_table(node.func) else ())]
        is_found = name in DEVICE_METHODS and any(_literals(argument, constants) for argument in arguments)
        is_found |= name in ("getattr", "hasattr") and _asks_by_text(node)
    elif isinstance(node, ast.Attribute):
        is_available = node.attr == "is_available" and ast.unparse(node.value) != "torch.accelerator"
        is_found = node.attr in DEVICE_QUESTIONS or is_available
    else:
        return ""
    return ast.unparse(node.subject if isinstance(node, ast.Match) else node) if is_found else ""


def _is_table(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Dict)


def _asks_by_text(call: ast.Call) -> bool:
    texts = {argument.value for argument in call.args[1:] if isinstance(argument, ast.Constant)}
    return bool(texts & (DEVICE_QUESTIONS | DEVICE_TYPES))


def says_nothing(name: str) -> bool:
    """Tells whether an identifier hides behind maybe or v1."""
    return bool(re.search(r"(?i)(^|_)(maybe|v1)(_|$)", name)) or bool(re.search(r"(Maybe|V1)", name))


def is_vague(name: str) -> bool:
    """Tells whether a function, class or file is named utility or helper."""
    return bool(re.search(r"(?i)(^|_)(utils?|utilities|helpers?|misc|stuff)(_|\.|$)", name)) or bool(
        re.search(r"(Utils?|Helpers?)([A-Z]|$)", name)
    )


def names(path: str, source: str) -> Iterator[str]:
    """No maybe and no v1 in a name, no helper and no flag. Methods under integration/ may override vLLM's."""
    overrides: set[int] = set()
    if path.startswith(f"{PACKAGE}/integration/"):
        classes = [node for node in nodes(source) if isinstance(node, ast.ClassDef)]
        overrides = {id(child) for node in classes for child in node.body}
    for node in nodes(source):
        for name in _bound_names(node):
            is_defined = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if id(node) not in overrides and (says_nothing(name) or (is_defined and is_vague(name))):
                yield f"{path}:{getattr(node, 'lineno', 1)}: the name {name}"
    if path.startswith(f"{PACKAGE}/"):
        for number, line in enumerate(source.splitlines(), start=1):
            yield from (f"{path}:{number}: the flag {flag}: ask a stack instead" for flag in FLAGS if flag in line)


def _bound_names(node: ast.AST) -> Iterator[str]:
    """Yields the names that a node itself binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            yield node.attr
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname for alias in node.names if alias.asname)
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name


def sizes(path: str, source: str) -> Iterator[str]:
    """Files and functions stay small, a function with its decorators, of which tests have tables."""
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}:1: {num_lines} lines, more than {MAX_FILE_LINES}"
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            decorators = [] if path.startswith("tests/") else getattr(node, "decorator_list", [])
            first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
            num_lines = (node.end_lineno or node.lineno) - first + 1
            if num_lines > MAX_FUNCTION_LINES:
                name = getattr(node, "name", "lambda")
                yield f"{path}:{node.lineno}: {name}: {num_lines} lines, more than {MAX_FUNCTION_LINES}"


def foreign_objects(path: str, source: str) -> Iterator[str]:
    """No attribute of an object of vLLM, vllm-ascend or torch is set outside the seam module."""
    yield from (f"{PACKAGE}/{found}" for found in foreign_attributes(path.removeprefix(f"{PACKAGE}/"), source))


def docstring_beginnings(path: str, source: str) -> Iterator[str]:
    """Every docstring of the package begins with a verb."""
    yield from (f"{PACKAGE}/{found}" for found in docstring_violations(path.removeprefix(f"{PACKAGE}/"), source))


RULES: list[Rule] = [
    FileRule(environment, PYTHON, (PACKAGE,)),
    FileRule(device_branches, PYTHON, (PACKAGE,)),
    FileRule(names, PYTHON),
    FileRule(sizes, PYTHON),
    FileRule(foreign_objects, PYTHON, (PACKAGE,)),
    FileRule(docstring_beginnings, PYTHON, (PACKAGE,)),
]
