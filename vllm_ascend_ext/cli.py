# SPDX-License-Identifier: Apache-2.0
"""Runs `vllm-ascend-ext demo | doctor | check | plan | plan step | heatmap | tail`. An error is one line; the
exit status says whose it is:

0 success; 1 the run failed, tokens differ or `doctor` found a problem; 2 wrong input; 130 interrupted.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from vllm_ascend_ext import __version__
from vllm_ascend_ext.commands import check, demo, doctor, heatmap, plan, plan_step, tail
from vllm_ascend_ext.commands.console import FAILED, PROGRAM
from vllm_ascend_ext.printable import printable

_BAD_INPUT, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    options = _parser().parse_args(plan_step.join(sys.argv[1:] if arguments is None else arguments))
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        status, line = _explain(error)
        print(f"{PROGRAM}: error: {printable(line)}", file=sys.stderr)
        return status


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{PROGRAM}: error: {message} (`{self.prog} --help` explains)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Mixture-of-experts serving extensions for vLLM.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for verb in (demo, doctor, check, plan, plan_step, heatmap, tail):
        verb.add(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _explain(error: Exception) -> tuple[int, str]:
    """Returns an exit status and one line of explanation; of a failed rank only the first line, and `--debug`
    shows its last output."""
    from vllm_ascend_ext.config import ConfigError
    from vllm_ascend_ext.dp_gather.plan_rows import PlanInputError
    from vllm_ascend_ext.envs import EnvironmentVariableError
    from vllm_ascend_ext.integration.errors import PlainError, UnsupportedCombinationError
    from vllm_ascend_ext.mtp_output.errors import ChannelError, FrameError
    from vllm_ascend_ext.tools.check.errors import CommandError
    from vllm_ascend_ext.tools.demo.input import InputError
    from vllm_ascend_ext.tools.forked_ranks import RankError

    lines = str(error).splitlines() or [""]
    bad_input = (
        InputError,
        CommandError,
        ConfigError,
        EnvironmentVariableError,
        PlanInputError,
        UnsupportedCombinationError,
    )
    if isinstance(error, bad_input):
        return _BAD_INPUT, "; ".join(lines)
    if isinstance(error, (PlainError, ChannelError, FrameError)):
        return FAILED, "; ".join(lines)
    if isinstance(error, RankError):
        return FAILED, f"{lines[0]} (--debug shows the rank's last output)"
    if isinstance(error, (ImportError, OSError)):
        return FAILED, "; ".join(lines)
    return FAILED, f"{type(error).__name__}: {lines[0]} (--debug shows where)"
