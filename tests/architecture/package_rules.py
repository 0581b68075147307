# SPDX-License-Identifier: Apache-2.0
"""Rules about the package that have tests of their own: whose attributes are set, and how docstrings begin."""

from __future__ import annotations

from collections.abc import Iterator

from tests.architecture.tree import PACKAGE, PYTHON, FileRule, Rule
from tests.seams.foreign_attributes import foreign_attributes
from tests.support.docstring_rule import docstring_violations


def _inside(path: str) -> str:
    return path.removeprefix(f"{PACKAGE}/")


def foreign_objects(path: str, source: str) -> Iterator[str]:
    """No attribute of an object of vLLM, vllm-ascend or torch is set outside the seam module."""
    yield from (f"{PACKAGE}/{found}" for found in foreign_attributes(_inside(path), source))


def docstring_beginnings(path: str, source: str) -> Iterator[str]:
    """Every docstring of the package begins with a verb."""
    yield from (f"{PACKAGE}/{found}" for found in docstring_violations(_inside(path), source))


RULES: list[Rule] = [
    FileRule(foreign_objects, PYTHON, (PACKAGE,)),
    FileRule(docstring_beginnings, PYTHON, (PACKAGE,)),
]
