# SPDX-License-Identifier: Apache-2.0
"""Takes the one `vllm serve` out of a shell command or a script, with the environment that it gets there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_ascend_ext.tools.check.errors import CommandError

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w[^}]*)\})")
# <MODEL_PATH> of documentation, which a shell would read as two redirections
_BLANK_TO_FILL_IN = re.compile(r"(?<![\w<])<([A-Za-z][\w.-]*)>")
_COMMENT_LINE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_MODULES = ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.cli.main")


@dataclass(frozen=True, slots=True)
class ServeCommand:
    """Holds what starts a server.

    arguments: the words behind `vllm serve`; a "$NAME" in them is what nothing has set.
    environment: what the command and the lines before it set.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def read_words(words: Sequence[str]) -> ServeCommand:
    """Reads a command that a shell has split already, or one word that holds a whole command.

    Raises CommandError as `read_text` does.
    """
    if len(words) == 1 and len(words[0].split()) > 1:
        return read_text(words[0])
    return _read([list(words)])


def read_text(text: str) -> ServeCommand:
    """Reads a command line or a script: quotes, continued lines, assignments, `export`, comments.

    Raises CommandError when there is no server in it, or several.
    """
    plain = _COMMENT_LINE.sub("", text.replace("\r\n", "\n"))  # quotes in comments need not match
    joined = _BLANK_TO_FILL_IN.sub(r"${\1}", plain.replace("\\\n", " "))
    try:
        tokens = list(_Lexer(joined))
    except ValueError as error:
        raise CommandError(f"the command's quotes do not match ({error}): close them") from None
    return _read(_statements(tokens))


class _Lexer(shlex.shlex):
    """Splits as a shell does, with separators and ends of lines as words of their own."""

    def __init__(self, text: str) -> None:
        super().__init__(text, posix=True, punctuation_chars=";&|<>\n")
        self.whitespace, self.whitespace_split, self.commenters = " \t\r", True, ""


def _statements(tokens: Sequence[str]) -> list[list[str]]:
    """Splits at separators; drops comments and redirections."""
    statements: list[list[str]] = [[]]
    is_comment = is_target = False
    for token in tokens:
        if set(token) <= set(";&|\n") and token:
            is_comment = is_comment and "\n" not in token
            if not is_comment:
                statements.append([])
        elif is_comment or is_target:
            is_target = False
        elif token.startswith("#"):
            is_comment = True
        elif set(token) <= set("<>&|"):
            if statements[-1] and statements[-1][-1].isdigit() and ">" in token:
                statements[-1].pop()
            is_target = True
        else:
            statements[-1].append(token)
    return [statement for statement in statements if statement]


def _read(statements: Sequence[Sequence[str]]) -> ServeCommand:
    known: dict[str, str] = {}
    exported: dict[str, str] = {}
    servers: list[ServeCommand] = []
    for statement in statements:
        words = [_filled(word, known) for word in statement]
        begins = [end for end in range(1, len(words) + 1) if _starts_server(words, end)]
        own = _assignments(words[: begins[0]] if begins else words)
        if begins:
            servers.append(ServeCommand(tuple(words[begins[0] :]), exported | own))
            servers += [ServeCommand(tuple(words[end:])) for end in begins[1:]]
        known |= own
        if words[0] == "export":
            exported |= own
    if len(servers) != 1:
        found = f"{len(servers)} servers" if servers else "no `vllm serve`"
        raise CommandError(
            f"there is {found} in the command: give one server at a time, as `vllm serve MODEL ...`"
        )
    return servers[0]


def _starts_server(words: Sequence[str], end: int) -> bool:
    """Returns whether the words before `end` end in what starts a server."""
    last, before = words[end - 1], words[end - 2] if end > 1 else ""
    is_module = last == _MODULES[0] and before == "-m"
    return is_module or (last == "serve" and (before.split("/")[-1] == "vllm" or before == _MODULES[1]))


def _assignments(words: Sequence[str]) -> dict[str, str]:
    found = [match for word in words if (match := _ASSIGNMENT.fullmatch(word))]
    return {match[1]: match[2] for match in found}


def _filled(word: str, known: Mapping[str, str]) -> str:
    """Puts in the variables that the text itself has set, and the defaults of `${NAME:-default}`."""

    def value(match: re.Match[str]) -> str:
        name, _, default = (match[1] or match[2]).partition(":-")
        return known.get(name, default or match[0])

    return _VARIABLE.sub(value, word)


def left_open(text: str) -> str | None:
    """Returns the first variable of a text that is still to be set, else None."""
    found = _VARIABLE.search(text)
    return found[0] if found else None


def without_variables(text: str, value: str) -> str:
    """Returns a text with `value` for every variable that is still to be set."""
    return _VARIABLE.sub(value, text)
