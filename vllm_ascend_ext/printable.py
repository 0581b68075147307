# SPDX-License-Identifier: Apache-2.0
"""Escapes what a terminal, a log or a page must not take for more than text.

A client names its requests, and whoever answers at an address words its answer: neither may move an operator's
cursor, turn his text round or end a line of his log.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns `text` with all that is no visible character and no space as escapes, ``\\x1b`` for ESC.

    These are control characters, line ends, marks of direction, surrogates, and what Unicode has not assigned.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
