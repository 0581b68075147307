# SPDX-License-Identifier: Apache-2.0
"""Defines the error of a command that cannot be read."""

from __future__ import annotations


class CommandError(ValueError):
    """Reports a `vllm serve` command that cannot be judged; the message is one line and says what to change."""
