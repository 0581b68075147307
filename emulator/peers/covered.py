# SPDX-License-Identifier: Apache-2.0
"""Says which of op-plugin's test files test operators that the emulator's tables have. Standard library only.

A file is named after the function that it tests. The operators of a function are those that are named by the
files of op-plugin's own C++ which define it (`op_plugin/ops/opapi`; where these name none,
`op_plugin/ops/aclops`) and its description (`op_plugin/config/op_plugin_functions.yaml`). A file is taken
where one of them is in the tables, and where nothing says which they are: it tests what torch composes of
several.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..launcher.places import SOURCES

_NAMED = {"opapi": r"\b(aclnn[A-Z]\w*)", "aclops": r'\.Name\("(\w+)"\)'}
_DEFINED = re.compile(r"(?m)^\w[^(\n]*[ &*](\w+)\(")
_CALLED = re.compile(r"torch_npu\.(?:\w+\.)?(\w+)\(|torch\.ops\.npu\.(\w+)")


def operators_of_tables(sources: Path = SOURCES) -> frozenset[str]:
    """Returns the names of all operators in the tables and of the single-operator interface."""
    tables = "".join(path.read_text() for path in (sources / "csrc" / "opapi" / "tables").glob("*.def"))
    single = "".join(path.read_text() for path in (sources / "csrc" / "aclop").glob("*.cpp"))
    return frozenset(re.findall(r"(?m)^(aclnn\w+)\(", tables) + re.findall(r'(?m)^\s+\{"(\w+)", \w+\}', single))


def operators_of_functions(checkout: Path) -> dict[str, frozenset[str]]:
    """Returns the operators of every function of op-plugin, by its name as `_plain` makes it."""
    named = {folder: _described(checkout) if folder == "opapi" else {} for folder in _NAMED}
    functions = set(named["opapi"])
    for folder, pattern in _NAMED.items():
        operators: defaultdict[str, set[str]] = defaultdict(set, named[folder])
        for path in sorted((checkout / "op_plugin" / "ops" / folder).rglob("*.cpp")):
            text = path.read_text(errors="replace")
            for function in map(_plain, _DEFINED.findall(text)):
                if function in functions:
                    operators[function] |= set(re.findall(pattern, text))
        named[folder] = operators
    return {name: frozenset(named["opapi"][name] or named["aclops"].get(name, set())) for name in functions}


def of_tables(checkout: Path, files: Iterable[str], operators: frozenset[str]) -> list[str]:
    """Returns those of ``files``, paths below ``checkout``, that are taken."""
    functions = operators_of_functions(checkout)
    return [file for file in files if _is_taken(checkout / file, functions, operators)]


def _is_taken(path: Path, functions: Mapping[str, frozenset[str]], operators: frozenset[str]) -> bool:
    name = path.stem.removeprefix("test_")
    names = [_plain(name), _plain(name.removeprefix("npu_")), "npu" + _plain(name)]
    found = next(([name] for name in names if name in functions), None)
    if found is None:
        called = _CALLED.findall(path.read_text(errors="replace"))
        found = [name for pair in called if (name := _plain(pair[0] or pair[1])) in functions]
    uses = frozenset[str]().union(*(functions[name] for name in found))
    return not uses or not uses.isdisjoint(operators)


def _described(checkout: Path) -> dict[str, set[str]]:
    """Returns the operators that the descriptions name, with an entry for every function."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    name = ""
    for line in (checkout / "op_plugin" / "config" / "op_plugin_functions.yaml").read_text().splitlines():
        if function := re.match(r"\s*- func: (\w+)", line):
            name = _plain(function[1])
            found.setdefault(name, set())
        elif operator := re.match(r"\s*exec: (aclnn\w+)", line):
            found[name].add(operator[1])
    return found


def _plain(name: str) -> str:
    """Returns a function's name without underscores and without what only says how it gives its result."""
    return re.sub(r"_out$", "", name.lower().strip("_")).replace("_", "")
