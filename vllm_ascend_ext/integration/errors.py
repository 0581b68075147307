# SPDX-License-Identifier: Apache-2.0
"""Defines the errors that end a process with one clear message instead of a long traceback."""

from __future__ import annotations

import sys
from types import TracebackType

from vllm_ascend_ext.printable import printable


class PlainError(RuntimeError):
    """Reports a problem in a message that says everything the reader needs, so that no traceback is printed."""


class StartupError(PlainError):
    """Refuses a configuration or environment that cannot work: says what, why and what to do.

    The class is no `ValueError`: pydantic would wrap that into a validation error of `VllmConfig` and bury the
    message.
    """


class UnsupportedCombinationError(StartupError):
    """Refuses settings that are each valid, but do not work together."""


class IncompatibleVllmError(StartupError):
    """Refuses a vLLM or vllm-ascend that is missing, untested, or without a symbol that we replace."""


class EngineDiedError(PlainError):
    """Reports that the engine of a server has died; the log tells why."""


class MovedExpertsError(RuntimeError):
    """Refuses to load weights into a running model whose experts EPLB has moved since they were loaded."""


class MidStepResetError(RuntimeError):
    """Refuses to reset the cache of running requests with tokens on their way: frames cannot take them back."""


def print_plain_errors() -> None:
    """Makes an uncaught `PlainError` end the process with the error's message alone (exit status 1).

    `vllm serve` lets such errors escape from its main function. Every other exception keeps its
    traceback; calling this twice changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "prints_plain_errors", False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, PlainError):
            lines = "\n".join(map(printable, str(error).splitlines()))
            print(f"vllm-ascend-ext: error: {lines}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    excepthook.prints_plain_errors = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook
