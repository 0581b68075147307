# SPDX-License-Identifier: Apache-2.0
"""Docstrings of the package begin with a verb; each kind of wrong beginning is found."""

from pathlib import Path

import pytest

from tests.support.docstring_rule import docstring_violations

PACKAGE = Path(__file__).parents[1] / "vllm_ascend_ext"

WRONG = {
    "a noun phrase": "The sum over the ranks.",
    "a fragment": "Of the sender.",
    "what": "What a step sampled.",
    "whether": "Whether the ring is full.",
    "a reference": "See `Device.event`.",
    "an imperative": "Return the sum.",
    "a plural noun": "Bytes of one row.",
    "a plural that could be a verb": "Columns of the tensor.",
    "code": "`gather` and its inverse.",
    "a section first": "Raises:\n    ValueError: always.",
    "a pronoun": "This counts tokens.",
    "an adjective": "Less than a row.",
    "a pronoun behind a semicolon": "Returns the head; its body follows.",
}
RIGHT = (
    "Returns the sum over the ranks; zero without ranks.",
    "Raises InputError for a prompt that is too long.",
    "Passes rows on. This is a second sentence.",
    "Columnises `x`.",
)


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    "source", ['"""{}"""', 'class A:\n    """{}"""', 'class A:\n    def f(self):\n        """{}"""']
)
def test_a_wrong_beginning_is_found(source: str, text: str) -> None:
    (found,) = docstring_violations("eplb_load/x.py", source.format(text.replace("\n", "\n        ")))
    assert found.startswith(f"eplb_load/x.py:{source.count(chr(10)) + 1}: ")


@pytest.mark.parametrize("text", RIGHT)
def test_a_verb_is_right(text: str) -> None:
    assert not list(docstring_violations("eplb_load/x.py", f'def f():\n    """{text}"""'))


def test_the_package() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    found = [
        violation
        for file in files
        for violation in docstring_violations(file.relative_to(PACKAGE).as_posix(), file.read_text())
    ]
    assert len(files) > 100 and not found, "\n".join(found)
