# SPDX-License-Identifier: Apache-2.0
"""Stands in for a compiler in a test of command lines: notes each one, and builds as little as will load.

``compiler.py LOG LANGUAGE ARGUMENTS...`` appends the language and the arguments to LOG, one line of JSON a call.
What is compiled as ASC becomes an object that needs the runtime which only a link by ASC adds: with another linker
the library builds and does not load. Of C++ only the tilings are compiled; the binding would need torch's headers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUNTIME = "ascend_stand_in_runtime"


def real_arguments(language: str, arguments: list[str]) -> list[str]:
    """Returns what g++ is called with instead."""
    output = arguments[arguments.index("-o") + 1] if "-o" in arguments else ""
    source = arguments[arguments.index("-c") + 1] if "-c" in arguments else ""
    if language == "ASC" and source:
        name = "of_" + Path(source).parent.name
        code = f'extern "C" int {RUNTIME}; int {name}() {{ return {RUNTIME}; }}'
        return _of_code(code, output, ["-fPIC"] if "-fPIC" in arguments else ["-fno-pic"])
    if language == "ASC":
        runtime = Path(output).with_name("runtime.o")
        subprocess.run(["g++", *_of_code(f'extern "C" {{ int {RUNTIME} = 1; }}', str(runtime), [])], check=True)
        return [*arguments, str(runtime)]
    if Path(source).name in ("binding.cpp", "cmake_pch.hxx.cxx"):
        return _of_code("", output, ["-fPIC"])
    return arguments


def _of_code(code: str, output: str, options: list[str]) -> list[str]:
    source = Path(output).with_suffix(".stand_in.cpp")
    source.write_text(code + "\n", encoding="utf-8")
    return [*options, "-o", output, "-c", str(source)]


def main() -> int:
    log, language, *arguments = sys.argv[1:]
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps([language, *arguments]) + "\n")
    return subprocess.run(["g++", *real_arguments(language, arguments)]).returncode


if __name__ == "__main__":
    sys.exit(main())
