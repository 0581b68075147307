# SPDX-License-Identifier: Apache-2.0
"""Implements `vllm-ascend-ext plan step`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

NAME = "plan step"


def join(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `plan step` as the one word that the parser knows this command by."""
    words = NAME.split()
    found = list(arguments)
    return [NAME, *found[len(words) :]] if found[: len(words)] == words else found


def add(commands: Any) -> None:
    step = commands.add_parser(
        NAME,
        help="what each feature costs and saves in a step of a model on a machine",
        description="Predicts from published figures of the machine, and from the sizes of the model, what the "
        "parts of a step take and what each feature saves of it. Nothing is measured and nothing is started; "
        "whether a feature starts with a deployment is told by `vllm-ascend-ext check`.",
    )
    step.add_argument("--machine", metavar="NAME", help="a2, a3, a3-roce, h20 or mi355x")
    step.add_argument(
        "--model", metavar="NAME|PATH", help="a well-known name, a model's folder or its config.json"
    )
    step.add_argument("--tokens", type=int, metavar="N", help="rows of a replica in the step")
    step.add_argument("--tp", type=int, default=1, metavar="N", help="ranks that split a replica (default: 1)")
    step.add_argument("--dp", type=int, default=1, metavar="N", help="replicas (default: 1)")
    step.add_argument(
        "--weights", choices=("bf16", "int8", "fp8"), default="bf16", help="of matrix products (default: bf16)"
    )
    step.add_argument(
        "--prompt", type=int, default=2048, metavar="N", help="tokens of each prompt in the step (default: 2048)"
    )
    step.add_argument(
        "--requests", type=int, default=256, metavar="N", help="that a replica decodes at once (default: 256)"
    )
    step.add_argument(
        "--imbalance",
        type=float,
        default=1.25,
        metavar="X",
        help="the busiest rank's expert load over the average (default: 1.25)",
    )
    step.add_argument("--sources", action="store_true", help="show the machine's figures and where they come from")
    step.add_argument("--published", action="store_true", help="show measurements of others beside predictions")
    step.add_argument("--json", action="store_true", help="print JSON")
    step.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from vllm_ascend_ext.tools.worth import document, text

    if options.published:
        found = document.comparisons()
        print(json.dumps(found, indent=1) if options.json else "\n".join(text.compared(found)))
        return 0
    answer = document.answer(_question(options))
    print(json.dumps(answer, indent=1) if options.json else "\n".join(text.lines(answer, sources=options.sources)))
    return 0


def _question(options: argparse.Namespace) -> Any:
    from vllm_ascend_ext.dp_gather.plan_rows import PlanInputError
    from vllm_ascend_ext.tools.worth.model_sizes import read_sizes
    from vllm_ascend_ext.tools.worth.question import Question, machine_named

    missing = [f"--{name}" for name in ("machine", "model", "tokens") if getattr(options, name) is None]
    if missing:
        raise PlanInputError(f"{', '.join(missing)} not given: name a machine, a model and the rows of a step")
    return Question(
        read_sizes(options.model),
        machine_named(options.machine),
        options.tp,
        options.dp,
        options.tokens,
        options.weights,
        options.prompt,
        options.requests,
        options.imbalance,
    )
