# SPDX-License-Identifier: Apache-2.0
"""Is the process from which those of the files are forked: it has imported what all of them import, which takes
longer than most tests. `python -m PACKAGE.peers.forks MODULE ...`

It reads a line of JSON for each process that it is to start: folder, environ, output, arguments (pytest's). Its
answers are two lines: the number of the process, and its exit status, negative for a signal. It never uses the
device, for which it would have to be the same process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def run_pytest(order: dict[str, Any]) -> int:
    """Becomes the process that was ordered, runs pytest in it and returns the status."""
    os.setsid()
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    sys.path.insert(0, order["folder"])
    sys.argv = ["pytest", *order["arguments"]]
    import pytest

    return int(pytest.main(order["arguments"]))


def main() -> None:
    """Serves until its input ends."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = run_pytest(json.loads(line))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)  # nothing of this process is its own to close
        answers.write(f"{child}\n")
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")


if __name__ == "__main__":
    main()
