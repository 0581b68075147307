# SPDX-License-Identifier: Apache-2.0
"""Implements `vllm-ascend-ext check`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_ascend_ext import envs
from vllm_ascend_ext.commands.console import console_for
from vllm_ascend_ext.tools.check import ASKED, SOCS

if TYPE_CHECKING:
    from vllm_ascend_ext.integration.upstream.versions import Pair
    from vllm_ascend_ext.tools.check.answer import Answer

# nothing of vllm-ascend or torch_npu may load: the answer must not need a device, and vLLM's parser needs none
ALONE = {"VLLM_PLUGINS": "ascend_ext_cpu", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def add(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="which features start with a `vllm serve` command on vllm-ascend, and why others do not",
        description="Says for each feature whether it starts with a command on vllm-ascend, is refused (with "
        "every reason and what to change), or would start in a way that no test has run. Needs neither weights "
        "nor NPU nor vllm-ascend, and starts nothing.",
        epilog="MODEL is a model's folder, a config.json, or the name of a well-known model. Exit status: 0 all "
        "that is asked for starts, 1 something is refused, 2 a command cannot be read.",
    )
    check.add_argument("serve", nargs="*", metavar="-- vllm serve MODEL ...", help="with NAME=VALUE before it")
    check.add_argument("--deployments", type=Path, metavar="FILE.jsonl", help='a command each: {"command": "..."}')
    check.add_argument(
        "--pair",
        metavar="VERSION",
        help="answer for this vllm-ascend (or vLLM) of the tested pairs (default: the installed one)",
    )
    check.add_argument("--soc", choices=SOCS, action="append", help="answer for this SoC (default: A2 and A3)")
    check.add_argument(
        "--feature",
        action="append",
        metavar="NAME",
        help="ask about this one (default: those that are on, or all)",
    )
    check.add_argument("--model-config", type=Path, metavar="FILE", help="a config.json in the model's place")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    envs.export(ALONE)
    with redirect_stdout(sys.stderr):  # what vLLM and its libraries print is not the answer
        from vllm_ascend_ext.tools.check.answer import document, exit_status
        from vllm_ascend_ext.tools.check.summary import print_answer, print_pair, print_totals

        pair = _pair(options.pair)
        answers = _answers(options, pair)
    console = console_for(sys.stdout)
    if options.json:
        print(json.dumps(document(answers, pair), indent=1))
    elif options.deployments is not None:
        print_totals(answers, console)
    else:
        print_answer(answers[0], console)
    if not options.json:
        print_pair(pair, console)
    return exit_status(answers)


def _pair(name: str | None) -> Pair:
    """Returns the pair that is asked about, by default the installed one; raises CommandError for others."""
    from vllm_ascend_ext.integration.upstream.versions import installed_pair, named_pair
    from vllm_ascend_ext.tools.check.errors import CommandError

    try:
        return installed_pair() if name is None else named_pair(name)
    except ValueError as error:
        raise CommandError(f"--pair {error}; give one of these versions") from None


def _answers(options: argparse.Namespace, pair: Pair) -> list[Answer]:
    """Returns an answer for each command; raises CommandError for a single one that cannot be read."""
    from vllm_ascend_ext.tools.check.answer import Answer
    from vllm_ascend_ext.tools.check.errors import CommandError
    from vllm_ascend_ext.tools.check.published import answer_rows, read_rows
    from vllm_ascend_ext.tools.check.shell_text import read_words
    from vllm_ascend_ext.tools.check.verdicts import NAMES, Question, judge

    features = tuple(options.feature or ())
    if unknown := sorted(set(features) - set(NAMES)):
        raise CommandError(f"--feature {unknown[0]}: there is none; choose of {', '.join(NAMES)}")
    if (options.deployments is None) == (not options.serve):
        raise CommandError("give one of the two: `-- vllm serve MODEL ...`, or --deployments FILE.jsonl")
    socs = tuple(options.soc or ASKED)
    if options.deployments is None:
        question = Question(read_words(options.serve), socs, features, options.model_config, pair=pair)
        return [Answer("command", tuple(judge(question)))]
    rows = list(read_rows(options.deployments))
    return answer_rows(rows, options.deployments.name, socs, features, options.model_config, pair)
