# SPDX-License-Identifier: Apache-2.0
"""Makes the console of a command: rich on a terminal, plain text of a fixed width elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "vllm-ascend-ext"
FAILED = 1
_PLAIN_WIDTH = 100  # of tables that do not go to a terminal


def console_for(file: TextIO) -> Console:
    from rich.console import Console

    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=_PLAIN_WIDTH)
