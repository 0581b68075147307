# SPDX-License-Identifier: Apache-2.0
"""Implements `vllm-ascend-ext doctor`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from vllm_ascend_ext.commands.console import FAILED, console_for


def add(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="what is installed, active and broken, and how to fix it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument(
        "--seams", action="store_true", help="list every symbol of vLLM and vllm-ascend that we rely on, by device"
    )
    doctor.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    return _list_seams(options) if options.seams else _examine(options)


def _list_seams(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.tools.doctor.seams import broken_seams, examine_seams, print_seams

    rows = examine_seams()
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_seams(rows, console_for(sys.stdout))
    return FAILED if broken_seams(rows) else 0


def _examine(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.tools.doctor import collect

    console = console_for(sys.stdout)
    progress = console_for(sys.stderr)
    progress.quiet = not progress.is_terminal
    with redirect_stdout(sys.stderr), progress.status("examining this installation"):
        document = collect.examine()
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        from vllm_ascend_ext.tools.doctor.summary import print_summary

        print_summary(document, console)
    return FAILED if document["problems"] else 0
