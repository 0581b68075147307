# SPDX-License-Identifier: Apache-2.0
"""`vllm-ascend-ext demo | doctor | plan | heatmap | tail`. An error is one line; the exit status says whose it is:

0 success; 1 the run failed, tokens differ or `doctor` found a problem; 2 wrong input; 130 interrupted.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from vllm_ascend_ext import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_ascend_ext.integration.demo.input import DemoOptions

PROGRAM = "vllm-ascend-ext"
_PLAIN_WIDTH = 100  # of tables that do not go to a terminal
_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        status, line = _explain(error)
        print(f"{PROGRAM}: error: {line}", file=sys.stderr)
        return status


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{PROGRAM}: error: {message} (`{self.prog} --help` explains)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Mixture-of-experts serving extensions for vLLM.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    doctor = commands.add_parser("doctor", help="what is installed, active and broken, and how to fix it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(command=_doctor)
    _add_plan(commands)
    heatmap = commands.add_parser("heatmap", help="draw a saved `demo --json` report's expert load: PNG and HTML")
    heatmap.add_argument("report", type=Path, metavar="REPORT.json")
    heatmap.add_argument("picture", type=Path, metavar="OUT.png")
    heatmap.set_defaults(command=_heatmap)
    _add_tail(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_demo(commands: Any) -> None:
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
    demo.set_defaults(command=_demo)


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="how data-parallel replicas with these rows would exchange them, and what each way costs",
        description="Prints the DP gather's plan of one mixture-of-experts layer; the widths are DeepSeek-V3's by "
        "default.",
    )
    plan.add_argument("counts", type=int, nargs="+", metavar="ROWS", help="of each replica in the step")
    plan.add_argument("--tp", type=int, default=1, metavar="N", help="ranks that split a replica (default: 1)")
    plan.add_argument("--rule", choices=("auto", "cost"), default="auto")
    plan.add_argument("--mode", choices=("max_len", "sum_len", "variable"), help="override the rule")
    plan.add_argument("--machine", default="", metavar="NAME|FILE", help="for times: h20, mi355x, or JSON")
    plan.add_argument("--graph", action="store_true", help="the step replays a captured graph")
    plan.add_argument("--hidden", type=int, default=7168, metavar="N", help="elements of a row (default: 7168)")
    plan.add_argument("--element-bytes", type=int, default=2, metavar="N", help="of one of them (default: 2)")
    plan.add_argument("--experts", type=int, default=256, metavar="N", help="router logits a row (default: 256)")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.parallel import plan_view
    from vllm_ascend_ext.parallel.cost import RowWidths
    from vllm_ascend_ext.parallel.gather_plan import make_plan
    from vllm_ascend_ext.parallel.gather_rows import GatherMode, Topology
    from vllm_ascend_ext.parallel.machine import describe

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
    print(json.dumps(plan_view.document(plan), indent=1) if options.json else plan_view.text(plan))
    return 0


def _add_tail(commands: Any) -> None:
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
    tail.set_defaults(command=_tail)


def _tail(options: argparse.Namespace) -> int:
    from itertools import islice

    from vllm_ascend_ext.mtp.receiver import OutputObserver
    from vllm_ascend_ext.mtp.tail import Tail, follow

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


def _demo(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.integration.demo import run as demo
    from vllm_ascend_ext.integration.demo.view import DemoView

    demo_options = _demo_options(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, which ends the ranks
    console = _console(sys.stderr if options.json else sys.stdout)
    console.quiet = options.json and not console.is_terminal
    demo.prepare_process(debug=options.debug)
    with redirect_stdout(sys.stderr):  # what vLLM and its libraries print is not the report
        document = demo.run_demo(demo_options, DemoView(console))
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        from vllm_ascend_ext.integration.demo.summary import print_summary

        print_summary(document, console)
    return demo.exit_status(document)


def _demo_options(options: argparse.Namespace) -> DemoOptions:
    from vllm_ascend_ext.integration.demo.input import (
        PROMPTS,
        DemoOptions,
        InputError,
        bundled_model,
        read_prompts,
    )

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


def _doctor(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.integration.doctor import collect

    console = _console(sys.stdout)
    progress = _console(sys.stderr)
    progress.quiet = not progress.is_terminal
    with redirect_stdout(sys.stderr), progress.status("examining this installation"):
        document = collect.examine()
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        from vllm_ascend_ext.integration.doctor.summary import print_summary

        print_summary(document, console)
    return _FAILED if document["problems"] else 0


def _heatmap(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.integration.demo.input import check_picture
    from vllm_ascend_ext.integration.demo.report import read_document, write_heatmap

    document = read_document(options.report)
    check_picture(options.picture)
    page = write_heatmap(document, options.picture)
    print(options.picture, page, sep="\n")
    return 0


def _console(file: TextIO) -> Console:
    from rich.console import Console

    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=_PLAIN_WIDTH)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit status and one line; only the first of a failed rank, whose last output `--debug` shows."""
    from vllm_ascend_ext.config import ConfigError
    from vllm_ascend_ext.envs import EnvironmentVariableError
    from vllm_ascend_ext.integration.demo.input import InputError
    from vllm_ascend_ext.integration.errors import PlainError, UnsupportedCombinationError
    from vllm_ascend_ext.integration.ranks import RankError
    from vllm_ascend_ext.mtp.errors import ChannelError, FrameError
    from vllm_ascend_ext.parallel.gather_rows import PlanInputError

    lines = str(error).splitlines() or [""]
    bad_input = (InputError, ConfigError, EnvironmentVariableError, PlanInputError, UnsupportedCombinationError)
    if isinstance(error, bad_input):
        return _BAD_INPUT, "; ".join(lines)
    if isinstance(error, (PlainError, ChannelError, FrameError)):
        return _FAILED, "; ".join(lines)
    if isinstance(error, RankError):
        return _FAILED, f"{lines[0]} (--debug shows the rank's last output)"
    if isinstance(error, (ImportError, OSError)):
        return _FAILED, "; ".join(lines)
    return _FAILED, f"{type(error).__name__}: {lines[0]} (--debug shows where)"
