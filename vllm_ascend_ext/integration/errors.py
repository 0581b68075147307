# SPDX-License-Identifier: Apache-2.0
"""Errors of the start-up: one clear line each, with no wall of traceback in front of it."""

from __future__ import annotations

import sys
from types import TracebackType


class StartupError(RuntimeError):
    """A configuration or environment that cannot work: says what, why and what to do.

    Not a `ValueError`: pydantic would wrap that into a validation error of `VllmConfig` and bury the message.
    """


class UnsupportedCombination(StartupError):
    """Two settings that are each valid but not together."""


class IncompatibleVllm(StartupError):
    """vLLM is missing, untested, or no longer has a symbol that we replace."""


def print_startup_errors_plainly() -> None:
    """Make an uncaught `StartupError` end the process with its message alone (exit status 1).

    `vllm serve` lets configuration errors escape from its main function. Every other exception keeps its
    traceback; calling this twice changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "prints_startup_errors_plainly", False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, StartupError):
            print(f"vllm-ascend-ext: error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    excepthook.prints_startup_errors_plainly = True  # type: ignore[attr-defined]
    sys.excepthook = excepthook
