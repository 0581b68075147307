# SPDX-License-Identifier: Apache-2.0
"""The reader of sources finds what a module defines, and nothing that only looks like it."""

from __future__ import annotations

import pytest

from vllm_ascend_ext.integration.upstream.seams.outline import Outline
from vllm_ascend_ext.integration.upstream.seams.seam import Seam
from vllm_ascend_ext.integration.upstream.seams.sources import Sources

SOURCE = '''
"""A module.

def in_docstring(): pass
class InDocstring:
    def method(self): pass
"""
from typing import TYPE_CHECKING
from a.b import one, two as three
from .near import (
    four,
    five as six,  # and not seven
)

if TYPE_CHECKING:
    from a.c import for_checkers
try:
    from a.d import eight
except ImportError:
    eight = None
if eight:
    def conditional(x): ...
else:
    def conditional(y): ...
CONSTANT: int = 3
if CONSTANT == 4:
    pass


async def function(
    a,  # ), def g(
    /,
    b="(",
    *args,
    c: int = int(")" == "("),
    **kwargs,
): 
    local = 1

    def nested(): ...


@decorated("class Hidden:")
class Thing(
    Base,
):
    """Words.

def not_a_method(self): pass
    """

    field: int = 1
    bare: str

    def __init__(self, p, q=1):
        self.x: int = 1
        self.y = self.z = 2
        if self.compared == 3 or self.called(k=1):
            other.foreign = 4
        text = "self.quoted = 1"

    @property
    def shown(self): return 1

    class Inner:
        def deep(self): ...


class Plain(NamedTuple):
    m: int
    n: int = 2


def after(): pass
'''
DEFINED = [
    "one",
    "three",
    "four",
    "six",
    "eight",
    "conditional",
    "CONSTANT",
    "function",
    "Thing",
    "Plain",
    "after",
]
MEMBERS = ["field", "bare", "__init__", "x", "y", "z", "shown", "Inner"]
NEITHER = ["in_docstring", "InDocstring", "two", "five", "seven", "for_checkers", "local", "nested", "Hidden", "g"]
NO_MEMBERS = ["not_a_method", "compared", "called", "k", "foreign", "quoted", "text", "deep", "m", "after"]


def test_names_of_the_module() -> None:
    outline = Outline(SOURCE)
    assert [name for name in DEFINED if outline.find(name) is None] == []
    assert [name for name in NEITHER + NO_MEMBERS if name != "after" and outline.find(name)] == []


def test_members_of_a_class() -> None:
    outline = Outline(SOURCE)
    assert [name for name in MEMBERS if outline.find("Thing", name) is None] == []
    assert [name for name in NO_MEMBERS + DEFINED if outline.find("Thing", name)] == []
    kinds = {name: getattr(outline.find("Thing", name), "kind", None) for name in ("x", "z", "field", "shown")}
    assert kinds == {"x": "instance", "z": "instance", "field": "value", "shown": "function"}


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (("function",), ("a", "b", "c")),
        (("conditional",), ("y",)),
        (("Thing",), ("p", "q")),
        (("Thing", "__init__"), ("self", "p", "q")),
        (("Plain",), ("m", "n")),
        (("CONSTANT",), None),
        (("Thing", "x"), None),
        (("absent",), None),
    ],
)
def test_parameters(path: tuple[str, ...], parameters: tuple[str, ...] | None) -> None:
    assert Outline(SOURCE).parameters(*path) == parameters


TEXTS = {
    "vllm.a": "from vllm.b import f as g, C\nfrom .b import D",
    "vllm.b": "from vllm.c import f\nclass C:\n    def __init__(self, x, y): ...\nclass D:\n    a: int",
    "vllm.c": "def f(p, q, r): ...\nN = 1",
}


@pytest.mark.parametrize(
    ("path", "parameters", "problem"),
    [
        ("a:g", ("p", "r"), None),
        ("a:C", ("x", "y"), None),
        ("b:C.__init__", ("x",), None),
        ("c:N", None, None),
        ("a:h", None, "vllm.a:h is gone (vllm.a does not define it)"),
        ("b:C.z", None, "vllm.b:C.z is gone (class C of vllm.b does not define it)"),
        ("b:E.z", None, "vllm.b:E.z is gone (class E of vllm.b does not define it)"),
        ("d:f", None, "vllm.d:f is gone (there is no source of vllm.d)"),
        ("a:g", ("p", "s"), "vllm.a:g has no parameter s (it has p, q, r)"),
        ("a:g", ("r", "p"), "vllm.a:g has its parameters in another order: p, q, r"),
        ("c:N", (), "vllm.c:N is no function any more"),
    ],
)
def test_problems_are_named(path: str, parameters: tuple[str, ...] | None, problem: str | None) -> None:
    seam = Seam(f"vllm.{path}", "read", "runner", ("cpu",), "why", "when", parameters)
    assert Sources(texts=TEXTS).problem_with(seam) == problem
