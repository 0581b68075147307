# SPDX-License-Identifier: Apache-2.0
"""Runs `vllm-ascend-ext heatmap`."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_ascend_ext.printable import printable


def add(commands: Any) -> None:
    heatmap = commands.add_parser(
        "heatmap",
        help="draw the expert load of a saved report or of a running server: PNG and HTML",
        description="Draws a report of `demo --json`, a saved list of the ranks' reports "
        "(collective_rpc('ascend_ext_report')), or with --url the report of a running server.",
    )
    heatmap.add_argument("report", type=Path, nargs="?", metavar="REPORT.json", help="not with --url")
    heatmap.add_argument("picture", type=Path, metavar="OUT.png", help="the page beside it ends in .html")
    heatmap.add_argument("--url", metavar="http://HOST:PORT", help="address of `vllm serve`")
    heatmap.add_argument("--every", type=float, metavar="S", help="with --url: draw again every S seconds")
    heatmap.add_argument("--api-key", metavar="KEY", help="with --url: what the server wants as its API key")
    heatmap.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.eplb_load.heatmap.heatmap import write_heatmap
    from vllm_ascend_ext.tools.demo.input import check_picture
    from vllm_ascend_ext.tools.heatmap_source import check_url, from_file, from_server

    _check(options)
    if options.url is not None:
        check_url(options.url)
    check_picture(options.picture)
    heatmap = from_file(options.report) if options.url is None else from_server(options.url, options.api_key)
    refresh_s = None if options.every is None else max(1, math.ceil(options.every))
    page = write_heatmap(heatmap, options.picture, refresh_s=refresh_s)
    print(options.picture, page, *([printable(heatmap.note)] if heatmap.note else []), sep="\n", flush=True)
    if options.every is None:
        return 0
    try:
        while True:
            time.sleep(options.every)
            heatmap = from_server(options.url, options.api_key)
            write_heatmap(heatmap, options.picture, refresh_s=refresh_s)
    finally:  # a page that stays behind says so, and asks for nothing any more
        write_heatmap(replace(heatmap, note=f"No longer drawn again. {heatmap.note}"), options.picture)


def _check(options: argparse.Namespace) -> None:
    """Raises InputError for arguments that do not go together."""
    from vllm_ascend_ext.tools.demo.input import InputError

    if (options.report is None) == (options.url is None):
        raise InputError("heatmap draws REPORT.json or --url http://HOST:PORT into OUT.png: give one of the two")
    if options.url is None and (options.every is not None or options.api_key is not None):
        raise InputError("--every and --api-key are for a server: give its --url")
    if options.every is not None and not 0 < options.every < math.inf:
        raise InputError(f"--every {options.every:g}: give a number of seconds above 0")
