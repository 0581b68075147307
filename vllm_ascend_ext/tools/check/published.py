# SPDX-License-Identifier: Apache-2.0
"""Reads files of deployments: a line of JSON each, with a command, or with the settings of a published one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vllm_ascend_ext.integration.upstream.versions import Pair, installed_pair
from vllm_ascend_ext.tools.check import SOCS
from vllm_ascend_ext.tools.check.answer import Answer, answer
from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.known_models import known_config
from vllm_ascend_ext.tools.check.shell_text import ServeCommand, read_text, read_words
from vllm_ascend_ext.tools.check.verdicts import Question

_SIZES = {
    "tp": "tensor-parallel-size",
    "dp": "data-parallel-size",
    "pp": "pipeline-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "dcp": "decode-context-parallel-size",
}


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file; raises CommandError with the line that cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CommandError(f"--deployments {file}: {error.strerror}; give a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CommandError(f"{file}:{number}: not JSON ({error}); give a JSON mapping a line") from None
        if not isinstance(row, dict) or not row.keys() & {"command", "model"}:
            raise CommandError(f'{file}:{number}: neither "command" nor "model" in it; give one of them')
        yield row


def answer_rows(
    rows: Sequence[Mapping[str, Any]],
    source: str,
    socs: tuple[str, ...],
    features: Sequence[str] = (),
    model_config: Path | None = None,
    pair: Pair | None = None,
) -> list[Answer]:
    """Returns an answer for each row, in their order.

    Args:
        source: name of the file, for the answers' names.
        socs: SoCs of rows that name none.
        features: see `Question`.
        model_config: see `Question`.
        pair: the versions to answer for; by default those that are installed.
    """
    answers = []
    for number, row in enumerate(rows, 1):
        name, commands = f"{source}:{number}", int(row.get("commands", 1))
        try:
            command = command_of(row)
        except CommandError as error:
            answers.append(Answer(name, (), str(error), commands))
            continue
        question = Question(
            command, socs_of(row, socs), features, model_config, scheme_in(row), pair or installed_pair()
        )
        answers.append(answer(name, question, commands))
    return answers


def command_of(row: Mapping[str, Any]) -> ServeCommand:
    """Returns the command of a row: its own ("command", text or words), or one with the settings that it lists."""
    given = row.get("command")
    if isinstance(given, str):
        return read_text(given)
    if given is not None:
        return read_words([str(word) for word in given])
    return ServeCommand(tuple(_arguments(row)), dict(_environment(row)))


def socs_of(row: Mapping[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the SoC that a row names, else the default."""
    return (row["hardware"],) if row.get("hardware") in SOCS else default


def scheme_in(row: Mapping[str, Any]) -> str:
    """Returns what a row says of quantisation, "" for nothing."""
    return str(row.get("quantisation") or "")


def _model(row: Mapping[str, Any]) -> str:
    """Returns the model of a row; where its page leaves it to a variable, the one that the page is about."""
    name = str(row["model"])
    if known_config(name) is not None:
        return name
    pages = (PurePosixPath(str(page).partition(":")[0]).name.removesuffix(".md") for page in row.get("pages", ()))
    return next((page for page in pages if known_config(page) is not None), name)


def _arguments(row: Mapping[str, Any]) -> Iterator[str]:
    yield _model(row)
    for key, option in _SIZES.items():
        size = row.get(key, 1)
        if size != 1:
            yield from (f"--{option}", f"${key.upper()}" if size == "?" else str(size))
    if row.get("quantisation"):
        yield from ("--quantization", "ascend")
    flags = {
        "--enable-expert-parallel": row.get("ep"),
        "--enable-eplb": row.get("enable_eplb"),
        "--enable-lora": row.get("lora"),
        "--async-scheduling": row.get("async_scheduling") == "on",
        "--no-async-scheduling": row.get("async_scheduling") == "off",
        "--enforce-eager": row.get("graph") == "eager",
    }
    yield from (flag for flag, is_set in flags.items() if is_set)
    if row.get("graph") not in (None, "eager", "default"):
        yield from ("--compilation-config", json.dumps({"cudagraph_mode": row["graph"]}))
    if row.get("speculative"):
        method, number = row["speculative"]
        drafts = {"method": method, "num_speculative_tokens": number}
        yield from ("--speculative-config", json.dumps(drafts))
    if row.get("kv_transfer"):
        connector, role = row["kv_transfer"]
        yield from ("--kv-transfer-config", json.dumps({"kv_connector": connector, "kv_role": role or "kv_both"}))
    if row.get("executor"):
        yield from ("--distributed-executor-backend", row["executor"])
    if row.get("additional_config"):
        yield from ("--additional-config", json.dumps(row["additional_config"]))


def _environment(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if row.get("flashcomm1"):
        yield "VLLM_ASCEND_ENABLE_FLASHCOMM1", "1"
    if row.get("dynamic_eplb"):
        yield "DYNAMIC_EPLB", "true"
    if row.get("v2_runner"):
        yield "VLLM_USE_V2_MODEL_RUNNER", "1"
