# SPDX-License-Identifier: Apache-2.0
"""The decoder of machine code against a disassembler, on libraries that a program's host code runs in."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulator.races.test_races import run_native
from tests.support.long_tables import long_table

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64's instructions are decoded"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="no disassembler"),
]

WIDTHS = {
    **{"BYTE": 1, "WORD": 2, "DWORD": 4, "QWORD": 8, "TBYTE": 10, "OWORD": 16},
    **{"XMMWORD": 16, "YMMWORD": 32, "ZMMWORD": 64},
}
# These touch no memory, or the disassembler takes the instruction before them for a part of them.
WITHOUT_ACCESS = re.compile(r"(data16 |cs )*(nop|prefetch|fst|fsave)")


def operands(library: Path) -> Iterator[str]:
    """Yields "machine code, width" of each form of instruction with an operand in memory, once."""
    command = ["objdump", "-d", "-M", "intel", "--insn-width=16", str(library)]
    seen = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            fields = line.rstrip("\n").split("\t")
            text = fields[2].split("#")[0].split("<")[0].strip() if len(fields) > 2 else ""
            found = re.search(r"(\w+) (?:PTR|BCST) ", text)
            if found is None or found[1] not in WIDTHS or WITHOUT_ACCESS.match(text):
                continue
            code = fields[1].replace(" ", "")
            form = (text.split()[0], found[1], code[:10])
            if form not in seen:
                seen.add(form)
                yield f"{code} {WIDTHS[found[1]]}"


def check(library: Path) -> None:
    run_native("operand_widths", given="\n".join(operands(library)) + "\n")


def test_widths_in_the_mathematics_library() -> None:
    """A small library with all of SSE, AVX2, FMA and AVX-512."""
    library = Path("/lib/x86_64-linux-gnu/libm.so.6")
    if not library.is_file():
        pytest.skip("no C library at the place of Debian's")
    check(library)


@long_table
def test_widths_in_numpy() -> None:
    """Every form of SIMD instruction that its kernels are compiled for, half precision included."""
    numpy = pytest.importorskip("numpy")
    for library in sorted(Path(numpy.__file__).parent.glob("_core/_multiarray_umath*.so")):
        check(library)
