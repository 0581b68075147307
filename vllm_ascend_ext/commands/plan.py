# SPDX-License-Identifier: Apache-2.0
"""Implements `vllm-ascend-ext plan`."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="how data-parallel replicas with these rows would exchange them, and what each way costs",
        description="Prints the DP gather's plan of one mixture-of-experts layer; the widths are DeepSeek-V3's by "
        "default. `plan step` has a page of help of its own.",
    )
    plan.add_argument("counts", type=int, nargs="+", metavar="ROWS", help="of each replica in the step")
    plan.add_argument("--tp", type=int, default=1, metavar="N", help="ranks that split a replica (default: 1)")
    plan.add_argument("--rule", choices=("auto", "cost"), default="auto")
    plan.add_argument("--mode", choices=("max_len", "sum_len", "variable"), help="override the rule")
    plan.add_argument(
        "--machine", default="", metavar="NAME|FILE", help="for times: a2, a3, a3-roce, h20, mi355x, or JSON"
    )
    plan.add_argument("--graph", action="store_true", help="the step replays a captured graph")
    plan.add_argument("--hidden", type=int, default=7168, metavar="N", help="elements of a row (default: 7168)")
    plan.add_argument("--element-bytes", type=int, default=2, metavar="N", help="of one of them (default: 2)")
    plan.add_argument("--experts", type=int, default=256, metavar="N", help="router logits a row (default: 256)")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.dp_gather import plan_text
    from vllm_ascend_ext.dp_gather.machine import describe
    from vllm_ascend_ext.dp_gather.plan import make_plan
    from vllm_ascend_ext.dp_gather.plan_cost import RowWidths
    from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology

    row = options.hidden * options.element_bytes
    topology = Topology(len(options.counts), options.tp)
    plan = make_plan(
        options.counts,
        topology,
        RowWidths((row, options.experts * options.element_bytes), row),
        rule=options.rule,
        machine=describe(options.machine, topology.num_ranks) if options.machine else None,
        in_graph=options.graph,
        mode=GatherMode(options.mode) if options.mode else None,
    )
    print(json.dumps(plan_text.document(plan), indent=1) if options.json else plan_text.text(plan))
    return 0
