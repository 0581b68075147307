# SPDX-License-Identifier: Apache-2.0
"""What a file of C++ may hold. Functions are found by their braces (`cpp_functions.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from scripts.structure import MAX_FILE_LINES, MAX_FUNCTION_LINES
from tests.architecture.cpp_functions import functions, macros
from tests.architecture.python_rules import says_nothing
from tests.architecture.tree import CPP, FileRule, Rule, Tree, TreeRule

MAX_COLUMNS = 115
INCLUDE = re.compile(
    r"(?:^\s*#\s*(?:include|include_next|import)\b|__has_include(?:_next)?\s*\()\s*([<\"]?)([^>\")]*)"
)
INCLUDE_FOLDERS = ("emulator/csrc", "csrc_ascendc", "csrc_ascendc/host")
NOT_CANN = ("ATen/", "c10/", "torch/", "sys/", "linux/", "asm/")
SYSTEM = {  # headers of C, POSIX, Linux, OpenMP, Python and the processor's instructions with a name in .h
    *("immintrin", "cpuid"),
    *("unistd", "pthread", "dlfcn", "fcntl", "ucontext", "time", "signal", "omp", "link", "elf", "Python"),
    *("poll", "errno", "stdint", "stddef", "string", "stdlib", "stdio", "math", "limits", "sched", "semaphore"),
}


def cpp_sizes(path: str, source: str) -> Iterator[str]:
    """C++ files and lines stay small."""
    lines = source.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{path}:1: {len(lines)} lines, more than {MAX_FILE_LINES}"
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, more than {MAX_COLUMNS}"


def cpp_function_sizes(path: str, source: str) -> Iterator[str]:
    """C++ functions stay small, those of a class, lambdas and macros, too."""
    for first, last in (*functions(source), *macros(source)):
        if last - first + 1 > MAX_FUNCTION_LINES:
            yield f"{path}:{first}: function of {last - first + 1} lines, more than {MAX_FUNCTION_LINES}"


def cpp_names(path: str, source: str) -> Iterator[str]:
    """No Maybe and no V1 in a name of C++."""
    for number, line in enumerate(source.splitlines(), start=1):
        for name in re.findall(r"[A-Za-z_]\w*", line.partition("//")[0].replace("[[maybe_unused]]", "")):
            if says_nothing(name):
                yield f"{path}:{number}: the name {name}"


def includes(source: str) -> Iterator[tuple[int, str, str]]:
    """Yields line, opening sign and header of everything that includes or asks for a header.

    The header is what stands there when no sign opens it, a macro.
    """
    for number, line in enumerate(source.splitlines(), start=1):
        if found := INCLUDE.search(line):
            yield number, found[1], found[2].strip()


def cpp_no_cann(tree: Tree) -> Iterator[str]:
    """No CANN header is included, whose license forbids it (emulator/README.md): only our own and torch's."""
    for path, source in tree.files((*CPP, ".def")):
        folders = (PurePosixPath(path).parent, *INCLUDE_FOLDERS)
        for number, sign, header in includes(source):
            is_standard = "/" not in header and (not header.endswith(".h") or header[:-2] in SYSTEM)
            is_known = sign == "<" and (header.startswith(NOT_CANN) or is_standard)
            if is_known or any((tree.root / folder / header).is_file() for folder in folders):
                continue
            yield f"{path}:{number}: includes {header}, which is neither ours nor torch's"


RULES: list[Rule] = [
    FileRule(cpp_sizes, CPP),
    FileRule(cpp_function_sizes, CPP),
    FileRule(cpp_names, CPP),
    TreeRule(cpp_no_cann),
]
