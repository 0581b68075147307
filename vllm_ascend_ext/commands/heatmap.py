# SPDX-License-Identifier: Apache-2.0
"""`vllm-ascend-ext heatmap`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    heatmap = commands.add_parser("heatmap", help="draw a saved `demo --json` report's expert load: PNG and HTML")
    heatmap.add_argument("report", type=Path, metavar="REPORT.json")
    heatmap.add_argument("picture", type=Path, metavar="OUT.png")
    heatmap.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.tools.demo.input import check_picture
    from vllm_ascend_ext.tools.demo.report import read_document, write_heatmap

    document = read_document(options.report)
    check_picture(options.picture)
    page = write_heatmap(document, options.picture)
    print(options.picture, page, sep="\n")
    return 0
