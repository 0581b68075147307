# SPDX-License-Identifier: Apache-2.0
"""Implements `vllm-ascend-ext demo`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_ascend_ext.commands.console import console_for

if TYPE_CHECKING:
    from vllm_ascend_ext.tools.demo.input import DemoOptions


def add(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="run an engine with expert parallelism, MTP and load collection, and check its tokens",
        description="Completes Python prompts on TP x DP ranks with expert parallelism, MTP and expert-load "
        "collection, and compares every token with one rank with everything off.",
    )
    demo.add_argument("--model", type=Path, metavar="DIR", help="a DeepSeek-V3 (default: a tiny one)")
    demo.add_argument("--tp", type=int, default=2, metavar="N", help="tensor-parallel ranks (default: 2)")
    demo.add_argument("--dp", type=int, default=1, metavar="N", help="data-parallel replicas (default: 1)")
    demo.add_argument(
        "--ep", action=argparse.BooleanOptionalAction, help="expert parallelism (default: with several ranks)"
    )
    demo.add_argument("--k", type=int, default=1, metavar="N", help="MTP drafts a step, 0: off (default: 1)")
    demo.add_argument("--prompts", type=Path, metavar="FILE", help="one a line, or a .json list of strings")
    demo.add_argument("--max-tokens", type=int, default=64, metavar="N", help="tokens a prompt (default: 64)")
    demo.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    demo.add_argument("--heatmap", type=Path, default=Path("out/heatmap.png"), metavar="FILE")
    demo.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    demo.add_argument("--no-compare", action="store_true", help="leave out the run with everything off")
    demo.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.tools.demo import run as demo
    from vllm_ascend_ext.tools.demo.view import DemoView

    demo_options = _demo_options(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, which ends the ranks
    console = console_for(sys.stderr if options.json else sys.stdout)
    console.quiet = options.json and not console.is_terminal
    demo.prepare_process(debug=options.debug)
    with redirect_stdout(sys.stderr):  # what vLLM and its libraries print is not the report
        document = demo.run_demo(demo_options, DemoView(console))
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        from vllm_ascend_ext.tools.demo.summary import print_summary

        print_summary(document, console)
    return demo.exit_status(document)


def _demo_options(options: argparse.Namespace) -> DemoOptions:
    from vllm_ascend_ext.tools.demo.input import PROMPTS, DemoOptions, InputError, bundled_model, read_prompts

    model = options.model or bundled_model()
    if model is None:
        raise InputError("no bundled model next to this installation; name one with --model DIR")
    return DemoOptions(
        model=model,
        prompts=read_prompts(options.prompts) if options.prompts else PROMPTS,
        tp=options.tp,
        dp=options.dp,
        expert_parallel=options.tp * options.dp > 1 if options.ep is None else options.ep,
        num_speculative_tokens=options.k,
        max_tokens=options.max_tokens,
        dtype=options.dtype,
        heatmap=options.heatmap,
        compare=not options.no_compare,
    )
