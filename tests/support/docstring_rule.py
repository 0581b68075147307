# SPDX-License-Identifier: Apache-2.0
"""Checks that docstrings begin with a verb in the third person, so that they say what a thing does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

NOT_VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        always arguments arrays as bits bytes collectives completions counters devices drafts engines errors
        events experts facts features files frames ids its kernels layers lengths less metrics milliseconds
        modules numbers others ours outputs positions processes programs progress prompts ranks replacements
        requests rows seconds sections settings slots snapshots statistics statuses steps symbols tensors
        this threads tokens values vectors weights windows words
        """,
    )
)
"""Nouns, pronouns and adverbs that end in s and are no verbs. A word that can be both is left out: the word "of"
behind it tells."""

_WORD = re.compile(r"([A-Z][a-z]+)\b(?!-)")
_PRONOUN = re.compile(r";\s+(he|it|its|she|that|their|them|they|this)\b")


def docstring_violations(path: str, source: str) -> Iterator[str]:
    """Yields every docstring of a file that does not begin with a verb, or has a pronoun behind a semicolon.

    Args:
        path: the file's path in the package.
        source: its text.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        line = node.body[0].lineno
        if not _begins_with_a_verb(docstring):
            yield f"{path}:{line}: begins with {docstring[:40].split(' ')[0]!r} instead of a verb (Returns ...)"
        if pronoun := _PRONOUN.search(docstring):
            yield f"{path}:{line}: has {pronoun[1]!r} behind a semicolon: repeat the noun"


def _begins_with_a_verb(docstring: str) -> bool:
    word = _WORD.match(docstring)
    if word is None or not word[1].endswith("s") or word[1].endswith("ss") or word[1].lower() in NOT_VERBS:
        return False
    rest = docstring[word.end() :]
    return not rest.startswith(":") and rest.split()[:1] != ["of"]  # "Raises:", a section; "Parts of ...", a noun
