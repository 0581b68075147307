# SPDX-License-Identifier: Apache-2.0
"""Implements `vllm-ascend-ext tail`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vllm_ascend_ext.commands.console import PROGRAM


def add(commands: Any) -> None:
    tail = commands.add_parser(
        "tail",
        help="print the tokens that a running server accepts, with the acceptance of its drafts",
        description="Looks on at one replica of a server with `mtp_output` on: a line a request and step, and at "
        "the end (of the server, or by Ctrl-C) the share of accepted drafts by position.",
    )
    tail.add_argument("--instance", type=int, default=0, metavar="N", help="mtp_output.instance (default: 0)")
    tail.add_argument("--replica", type=int, default=0, metavar="N", help="data-parallel rank (default: 0)")
    tail.add_argument("--frames", type=int, metavar="N", help="end after so many frames")
    tail.add_argument(
        "--wait", type=float, default=10.0, metavar="S", help="for the server to start, seconds (default: 10)"
    )
    tail.add_argument("--json", action="store_true", help="print a JSON object a frame, and one at the end")
    tail.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from itertools import islice

    from vllm_ascend_ext.mtp_output.receiver import OutputObserver
    from vllm_ascend_ext.mtp_output.tail import Tail, follow

    observer = OutputObserver(options.instance, options.replica, timeout_s=options.wait)
    tail = Tail(sys.stdout, options.json)
    print(f"{PROGRAM}: looking on at instance {options.instance}, replica {options.replica}", file=sys.stderr)
    try:
        for frame in islice(follow(observer), options.frames):
            tail.show(frame)
    finally:
        tail.summary(observer.num_missed)
        observer.close()
    return 0
