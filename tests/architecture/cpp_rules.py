# SPDX-License-Identifier: Apache-2.0
"""What a file of C++ may hold. Functions are found by their indentation, which clang-format keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from scripts.structure import MAX_FILE_LINES, MAX_FUNCTION_LINES
from tests.architecture.python_rules import says_nothing
from tests.architecture.tree import CPP, FileRule, Rule, Tree, TreeRule

MAX_COLUMNS = 115
INCLUDE_FOLDERS = ("emulator/csrc", "csrc_ascendc", "csrc_ascendc/host")
NO_FUNCTION = (
    r"(?!(namespace|struct|class|enum|extern|union|constexpr|const|static const|if|for|while|switch|do|else)\b)"
)
NOT_CANN = r"(?!ATen/|c10/|torch/|sys/|linux/|asm/)"


def cpp_sizes(path: str, source: str) -> Iterator[str]:
    """C++ files and lines stay small."""
    lines = source.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{path}:1: {len(lines)} lines, more than {MAX_FILE_LINES}"
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, more than {MAX_COLUMNS}"


def cpp_function_sizes(path: str, source: str) -> Iterator[str]:
    """C++ functions stay small, those of a class, too."""
    begins: dict[str, int] = {}
    head: tuple[str, int] | None = None  # indentation and line of a signature whose brace has not come
    for number, line in enumerate(source.splitlines(), start=1):
        if begin := re.match(rf"( {{0,2}}){NO_FUNCTION}[\w~\[]", line):
            head = (begin[1], number)
        elif re.match(r" {0,2}\S", line):
            head = None
        if head and line.endswith("{"):
            begins[head[0]], head = head[1], None
        elif line.endswith((";", "}")):
            head = None
        if (end := re.match(r"( {0,2})\}", line)) and end[1] in begins:
            first = begins.pop(end[1])
            if number - first + 1 > MAX_FUNCTION_LINES:
                yield f"{path}:{first}: function of {number - first + 1} lines, more than {MAX_FUNCTION_LINES}"


def cpp_names(path: str, source: str) -> Iterator[str]:
    """No Maybe and no V1 in a name of C++."""
    for number, line in enumerate(source.splitlines(), start=1):
        for name in re.findall(r"[A-Za-z_]\w*", line.partition("//")[0].replace("[[maybe_unused]]", "")):
            if says_nothing(name):
                yield f"{path}:{number}: the name {name}"


def suspicious_includes(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and header of every include that may be CANN's: in a folder that is not torch's, or named so."""
    for number, line in enumerate(source.splitlines(), start=1):
        found = re.match(rf"\s*#\s*include\s*[<\"]{NOT_CANN}([^>\"]*/[^>\"]*|(acl|hccl|rt)[^>\"]*)", line)
        if found:
            yield number, found[1]


def cpp_no_cann(tree: Tree) -> Iterator[str]:
    """No CANN header is included, whose license forbids it (emulator/README.md): only our own and torch's."""
    for path, source in tree.files(CPP):
        folders = (PurePosixPath(path).parent, *INCLUDE_FOLDERS)
        for number, header in suspicious_includes(source):
            if not any((tree.root / folder / header).is_file() for folder in folders):
                yield f"{path}:{number}: includes {header}, which is neither ours nor torch's"


RULES: list[Rule] = [
    FileRule(cpp_sizes, CPP),
    FileRule(cpp_function_sizes, CPP),
    FileRule(cpp_names, CPP),
    TreeRule(cpp_no_cann),
]
