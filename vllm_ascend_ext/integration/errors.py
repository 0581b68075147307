# SPDX-License-Identifier: Apache-2.0
"""Errors that end a process with one clear message instead of a wall of traceback."""

from __future__ import annotations

import sys
from types import TracebackType


class PlainError(RuntimeError):
    """An error whose message says everything that the reader needs; see `print_plain_errors`."""


class StartupError(PlainError):
    """A configuration or environment that cannot work: says what, why and what to do.

    Not a `ValueError`: pydantic would wrap that into a validation error of `VllmConfig` and bury the message.
    """


class UnsupportedCombinationError(StartupError):
    """Two settings that are each valid but not together."""


class IncompatibleVllmError(StartupError):
    """vLLM is missing, untested, or no longer has a symbol that we replace."""


class EngineDiedError(PlainError):
    """The engine of a server has died; the log tells why."""


def print_plain_errors() -> None:
    """Make an uncaught `PlainError` end the process with its message alone (exit status 1).

    `vllm serve` lets such errors escape from its main function. Every other exception keeps its
    traceback; calling this twice changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "prints_plain_errors", False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, PlainError):
            print(f"vllm-ascend-ext: error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    excepthook.prints_plain_errors = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook
