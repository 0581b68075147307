# SPDX-License-Identifier: Apache-2.0
"""Reads the options of `vllm serve` with vLLM's own parser."""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from vllm_ascend_ext.integration.upstream.versions import (
    PAIR_0_30,
    Pair,
    installed_pair,
    installed_vllm,
)
from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.shell_text import left_open, without_variables

# options that decide whether a feature starts; all others may be left to a variable
_DECISIVE = {
    "tensor_parallel_size": ("tp",),
    "data_parallel_size": ("dp",),
    "pipeline_parallel_size": ("pp",),
    "prefill_context_parallel_size": ("pcp",),
    "decode_context_parallel_size": ("dcp",),
    "quantization": ("q",),
    "compilation_config": ("cc",),
    "additional_config": (),
    "speculative_config": ("sc",),
    "kv_transfer_config": (),
    "distributed_executor_backend": (),
    "hf_overrides": (),
    "dtype": (),
    "runner": (),
    "max_logprobs": (),
}
_NAMES = {alias: name for name, aliases in _DECISIVE.items() for alias in (name, *aliases)}


@functools.cache
def _parser() -> Any:
    """Returns vLLM's parser of `vllm serve`, whose errors are ours. Takes seconds the first time."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise CommandError(f"vLLM does not take the command: {' '.join(message.split())}")

        def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
            raise CommandError("the command only asks vLLM for help; give one that serves a model")

    if installed_pair() == PAIR_0_30:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    else:
        from vllm.entrypoints.openai.cli_args import make_arg_parser
    return make_arg_parser(Parser(prog="vllm serve", add_help=False))


def read_for(pair: Pair, arguments: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Returns the options of a command for a pair, and those that were left out of it.

    The installed vLLM reads them. Where that is not the pair's, options that it does not have are left out with
    their values: whatever follows them up to the next option. Raises CommandError as `read_options` does.
    """
    installed = installed_vllm()
    if installed == pair.vllm:
        return read_options(arguments), ()
    known, unread = _known_options(arguments)
    left_out = f"without {', '.join(unread)} and what follows, " if unread else ""
    where = f" ({left_out}read by vLLM {installed}, which is installed here; ask where {pair} is)"
    options = read_options(known, where)
    return options, tuple(f"{option}, which vLLM {installed} here does not have" for option in unread)


def _known_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments without long options that the parser does not have, and these options."""
    names = [name for name in _parser()._option_string_actions if name.startswith("--")]
    kept, unread, is_known = list[str](), list[str](), True
    for argument in arguments:
        if re.match(r"-(?!\d)", argument):  # a negative number is a value
            option = re.split(r"[=.]", argument, maxsplit=1)[0].replace("_", "-")
            is_known = not argument.startswith("--") or any(name.startswith(option) for name in names)
            if not is_known:
                unread.append(option)
        if is_known:
            kept.append(argument)
    return kept, list(dict.fromkeys(unread))


def read_options(arguments: Sequence[str], where: str = "") -> argparse.Namespace:
    """Returns the options of a command as the installed vLLM reads them; `where` ends what it says of others.

    Raises CommandError for what vLLM does not take, and for a setting that is left to a variable and decides.
    """
    closed = _without_open_ends(arguments)
    try:
        options: argparse.Namespace = _parser().parse_args(closed)
    except (ValueError, IndexError, OSError) as error:
        said = " ".join(str(error).split())
        text = said if isinstance(error, CommandError) else f"vLLM does not take the command: {said}"
        raise CommandError(f"{text}{where}") from None
    is_named = any(re.match(r"--model(=|$)", argument) for argument in arguments)
    if options.model_tag is None and not is_named:
        raise CommandError("the command names no model: write it behind `vllm serve`")
    for name in ("additional_config", "speculative_config"):
        if not isinstance(getattr(options, name) or {}, dict):
            raise CommandError(f"--{name.replace('_', '-')} is no JSON mapping; correct its quotes and braces")
    return options


def model_of(options: argparse.Namespace) -> str:
    """Returns the model that a command names."""
    return str(options.model_tag or options.model)


_DECIDING = re.compile(r'"(method|kv_role|cudagraph_mode|mode|num_speculative_tokens)":\s*"?\$')


def _without_open_ends(arguments: Sequence[str]) -> list[str]:
    """Leaves out options whose value is left to a variable and does not matter.

    Raises CommandError where it does matter.
    """
    kept: list[str] = []
    for argument in arguments:
        option, is_joined, value = argument.partition("=")
        if not argument.startswith("-"):
            option, value = (kept[-1] if kept and kept[-1].startswith("-") else ""), argument
        variable = left_open(value) if is_joined or not argument.startswith("-") else None
        if variable is None or not option or "=" in option:
            kept.append(argument)
            continue
        name = _NAMES.get(option.lstrip("-").partition(".")[0].replace("-", "_"))
        closed = None if name is None else _closed(value)
        if name is not None and closed is None:
            raise CommandError(
                f"{option} is left to {variable}, which the command does not set: write its value, or set "
                f"{variable.strip('${}')}=... before `vllm serve`"
            )
        if closed is not None:
            kept.append(f"{option}={closed}" if is_joined else closed)
        elif kept and kept[-1] == option:
            kept.pop()
    return kept


def _closed(value: str) -> str | None:
    """Returns JSON with 0 for its variables where these are a port, a path or the like, else None."""
    if _DECIDING.search(value):
        return None
    closed = without_variables(value, "0")
    try:
        return closed if isinstance(json.loads(closed), dict) else None
    except ValueError:
        return None
