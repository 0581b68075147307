# SPDX-License-Identifier: Apache-2.0
"""Turns an operator table into the C entry points of libopapi: `generate.py TABLE OUTPUT`.

An entry is `aclnnName(Kind argument, ...) { C++ body }`. `requires { C++ }` before the body is run at the call:
what it throws is an error of the call, not a failure of the device. `chooses { C++ }` before the body (and behind
`requires { C++ }`) names what the operator touches by indices, by the functions of `choosing.h`:
`by.rows(cache, 0, index);`. The kind of a tensor says how the operator touches its memory, which the race checker
relies on:

    In InList           read
    Out OutList         written, every element
    InOut InOutList     read and written, or written in part
    Resized             written; the operator decides the shape, so it runs to its end at launch

and `Opt` behind `In`, `Out`, `InOut` and `Resized` allows null, an undefined tensor in the body. The other kinds
are Scalar ScalarOpt Scalars Ints IntsOpt Floats Bools Dtype Text, the C types of numbers, and Group: the name of
an HCCL communicator, whose ranks run the operator together.

`updatable` before the body gives an entry `GetMaxWorkspaceSize` as well, which torch_npu asks for the workspace of
an operator whose arguments are updated in a captured graph. None of ours needs a workspace.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """Describes how one kind of argument is passed (`c_type`), captured (`type`, `use`) and named in the body
    (`cpp`)."""

    c_type: str
    type: str
    cpp: str
    use: str = "kNone"
    optional: bool = False


@dataclass(frozen=True)
class Parameter:
    """Describes one argument of an operator."""

    kind: str
    name: str


@dataclass(frozen=True)
class Entry:
    """Describes one operator: its name, arguments, body, the body's first line in the table, its check and what it
    touches by indices."""

    name: str
    parameters: tuple[Parameter, ...]
    body: str
    line: int
    updatable: bool = False
    check: str = ""
    choice: str = ""


def _handle(type_: str, cpp: str, use: str = "kNone", optional: bool = False) -> Kind:
    return Kind("const void*", type_, cpp, use, optional)


KINDS = {
    "In": _handle("kTensor", "Tensor", "kRead"),
    "InOpt": _handle("kTensor", "Tensor", "kRead", True),
    "InList": _handle("kTensors", "Tensors", "kRead"),
    "Out": _handle("kTensor", "Tensor", "kWrite"),
    "OutOpt": _handle("kTensor", "Tensor", "kWrite", True),
    "OutList": _handle("kTensors", "Tensors", "kWrite"),
    "InOut": _handle("kTensor", "Tensor", "kUpdate"),
    "InOutOpt": _handle("kTensor", "Tensor", "kUpdate", True),
    "InOutList": _handle("kTensors", "Tensors", "kUpdate"),
    "Resized": _handle("kResized", "Resized", "kWrite"),
    "ResizedOpt": _handle("kResized", "Resized", "kWrite", True),
    "Scalar": _handle("kScalar", "Scalar"),
    "ScalarOpt": _handle("kScalar", "std::optional<Scalar>", optional=True),
    "Scalars": _handle("kScalars", "Scalars"),
    "Ints": _handle("kInts", "Ints"),
    "IntsOpt": _handle("kInts", "std::optional<Ints>", optional=True),
    "Floats": _handle("kFloats", "Floats"),
    "Bools": _handle("kBools", "Bools"),
    "Text": Kind("const char*", "kText", "std::string"),
    "Dtype": Kind("int", "kDtype", "at::ScalarType"),
    "Group": Kind("const char*", "kGroup", "Group"),
    "float": Kind("float", "kReal", "double"),
    "double": Kind("double", "kReal", "double"),
    "bool": Kind("bool", "kFlag", "bool"),
    **{name: Kind(name, "kInteger", "int64_t") for name in ("int8_t", "int32_t", "int64_t", "uint64_t")},
}
_HEAD = re.compile(r"(aclnn\w+)\(([^)]*)\)(?:\s*(updatable))?(?:\s*(requires|chooses))?\s*\{")
_BODY = re.compile(r"\s*(chooses)?\s*\{")
_WRITES = ("kWrite", "kUpdate")


def writes(entry: Entry) -> list[str]:
    """Returns the names of the operands that the operator writes."""
    return [parameter.name for parameter in entry.parameters if KINDS[parameter.kind].use in _WRITES]


def parse(table: Path) -> list[Entry]:
    """Reads a table.

    Raises:
        ValueError: something that is not an entry, an unknown kind, or a name given twice.
    """
    text = re.sub(r"(?m)^\s*//.*$", "", table.read_text())
    entries: list[Entry] = []
    position = 0
    while text[position:].strip():
        position += len(text[position:]) - len(text[position:].lstrip())
        line = text.count("\n", 0, position) + 1
        head = _HEAD.match(text, position)
        if head is None:
            raise ValueError(f"{table.name}:{line}: not an operator: {text[position:].splitlines()[0]!r}")
        begin, part, before = head.end(), head[4], {"requires": "", "chooses": ""}
        end = _closing_brace(text, begin, f"{table.name}:{line}")
        while part:
            before[part] = text[begin:end].strip()
            if (brace := _BODY.match(text, end + 1)) is None:
                raise ValueError(f"{table.name}:{line}: no body behind what it {part}")
            begin, part = brace.end(), brace[1]
            end = _closing_brace(text, begin, f"{table.name}:{line}")
        first_line = text.count("\n", 0, begin) + 1
        parameters = tuple(_parameters(head[2], f"{table.name}:{line}"))
        body = text[begin:end].rstrip()
        updatable = head[3] == "updatable"
        entries.append(
            Entry(head[1], parameters, body, first_line, updatable, before["requires"], before["chooses"])
        )
        position = end + 1
    names = [entry.name for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{table.name}: twice: {', '.join(sorted(twice))}")
    return entries


def _closing_brace(text: str, position: int, where: str) -> int:
    depth = 1
    for offset in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[offset], 0)
        if depth == 0:
            return offset
    raise ValueError(f"{where}: the body does not end")


def _parameters(text: str, where: str) -> list[Parameter]:
    parameters = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        kind, _, name = item.partition(" ")
        if kind not in KINDS or not name.isidentifier():
            raise ValueError(f"{where}: not an argument: {item!r}")
        parameters.append(Parameter(kind, name))
    return parameters


def _described(parameter: Parameter) -> str:
    kind = KINDS[parameter.kind]
    return f'{{"{parameter.name}", Type::{kind.type}, Use::{kind.use}, {str(kind.optional).lower()}}}'


def _passed(parameter: Parameter, index: int) -> str:
    kind = KINDS[parameter.kind]
    if kind.type in ("kInteger", "kDtype"):
        return f"static_cast<int64_t>(a{index})"
    return f"static_cast<double>(a{index})" if kind.type == "kReal" else f"a{index}"


def _emit(entry: Entry, table: Path) -> str:
    indexed = list(enumerate(entry.parameters))
    names = "".join(
        f"  [[maybe_unused]] const auto& {p.name} = std::get<{KINDS[p.kind].cpp}>(arguments[{i}]);\n"
        for i, p in indexed
    )
    c_arguments = "".join(f"{KINDS[p.kind].c_type} a{i}, " for i, p in indexed)
    passed = ", ".join(_passed(p, i) for i, p in indexed)
    op = f"emu::opapi::k_{entry.name}"
    check, checked = "nullptr", ""
    if entry.check:
        check = f"Check_{entry.name}"
        checked = f"void {check}(const Arguments& arguments) {{\n{names}  {entry.check}\n}}\n"
    choose = "nullptr"
    if entry.choice:
        choose = f"Choose_{entry.name}"
        checked += f"void {choose}(const Arguments& arguments, Choosing& by) {{\n{names}  {entry.choice}\n}}\n"
    return (
        f"namespace emu::opapi {{\nnamespace {{\n{checked}"
        f"void Body_{entry.name}([[maybe_unused]] const Arguments& arguments) {{\n{names}"
        f'#line {entry.line} "{table}"\n  {entry.body.strip()}\n}}\n'
        f'const Operator k_{entry.name}{{"{entry.name}", {{{", ".join(_described(p) for _, p in indexed)}}}, '
        f"Body_{entry.name}, {check}, {choose}}};\n}}\n}}\n"
        f'extern "C" int {entry.name}GetWorkspaceSize({c_arguments}uint64_t* size, aclOpExecutor** executor) {{\n'
        f"  return emu::opapi::Prepare({op}, {{{passed}}}, size, executor);\n}}\n"
        f'extern "C" int {entry.name}(void*, uint64_t, aclOpExecutor* executor, void* stream) {{\n'
        f"  return emu::opapi::Launch({op}, executor, stream);\n}}\n\n"
    ) + (_max_workspace(entry) if entry.updatable else "")


def _max_workspace(entry: Entry) -> str:
    kinds = [KINDS[parameter.kind].c_type for parameter in entry.parameters] + ["uint64_t*", "aclOpExecutor**"]
    declared = ", ".join(f"{kind} a{index}" for index, kind in enumerate(kinds))
    passed = ", ".join(f"a{index}" for index in range(len(kinds)))
    return (
        f'extern "C" int {entry.name}GetMaxWorkspaceSize({declared}) {{\n'
        f"  return {entry.name}GetWorkspaceSize({passed});\n}}\n\n"
    )


def main(table: Path, output: Path) -> None:
    """Writes the C++ of one table."""
    entries = parse(table)
    output.write_text('#include "opapi/bodies_all.h"\n\n' + "".join(_emit(entry, table) for entry in entries))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
