# SPDX-License-Identifier: Apache-2.0
"""Changes of foreign objects: all or none, idempotent, loud when the target has changed, taken back when they
are for a while."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.change import Change, temporarily
from vllm_ascend_ext.integration.upstream.seams.seam import Seam

SOURCE = """
def first(a, b): return 'upstream'
class Thing:
    def second(self): return 'upstream'
    @staticmethod
    def third(): return 'upstream'
"""


@pytest.fixture
def upstream() -> Iterator[types.ModuleType]:
    module = types.ModuleType("vllm_for_test")
    exec(SOURCE, vars(module))
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def row(path: str, parameters: tuple[str, ...] | None = None) -> Seam:
    return Seam(f"vllm_for_test:{path}", "replace", "runner", ("cpu",), "reason", "when", parameters)


def test_functions_and_methods_are_replaced_and_repeating_it_is_harmless(upstream: types.ModuleType) -> None:
    def first(a: object, b: object) -> str:
        return "ours"

    def second(self: object) -> str:
        return "ours"

    rows = [(row("first", ("a", "b")), first), (row("Thing.second"), second)]
    change.replace_all(rows)
    change.replace_all(rows)
    assert (upstream.first(1, 2), upstream.Thing().second()) == ("ours", "ours")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("gone"), "vllm_for_test:gone is gone"),
        (row("Thing.gone"), "Thing.gone is gone"),
        (row("first", ("a", "c")), r"first has no parameter c \(it has a, b\)"),
    ],
)
def test_one_changed_target_refuses_all(upstream: types.ModuleType, bad: Seam, message: str) -> None:
    with pytest.raises(IncompatibleVllmError, match=message):
        change.replace_all([(row("first"), lambda a, b: "ours"), (bad, None)])
    assert upstream.first(1, 2) == "upstream"


def test_an_object_that_lacks_the_attribute_is_refused(upstream: types.ModuleType) -> None:
    thing = upstream.Thing()
    for attempt in (
        lambda: change.replace(row("Thing.gone"), 1, thing),
        lambda: change.wrap(row("Thing.gone"), thing, lambda x: x),
        lambda: change.stand_in(thing, "gone", 1),
    ):
        with pytest.raises(IncompatibleVllmError, match=r"gone.* Install vllm==0"):
            attempt()
    assert not vars(thing)


def test_wrapping_calls_what_was_there(upstream: types.ModuleType) -> None:
    thing = upstream.Thing()
    change.wrap(row("Thing.second"), thing, lambda second: lambda: second() + " and ours")
    assert thing.second() == "upstream and ours" and upstream.Thing().second() == "upstream"


def test_the_row_about_an_object_is_the_one_of_its_class(upstream: types.ModuleType) -> None:
    rows = [row("Other.forward"), row("Thing.forward")]
    assert change.row_for(rows, upstream.Thing()) is rows[1]
    with pytest.raises(IncompatibleVllmError, match=r"object is none of Other, Thing\. Install vllm==0"):
        change.row_for(rows, object())


def test_what_is_changed_for_a_while_is_what_it_was_after_an_exception(upstream: types.ModuleType) -> None:
    raw = vars(upstream.Thing)["third"]
    changes = [Change(row("first"), len), Change(row("Thing.third"), staticmethod(len))]
    with pytest.raises(KeyError), temporarily(changes):
        assert upstream.first is len and upstream.Thing.third is len
        raise KeyError
    assert upstream.first(1, 2) == "upstream" and vars(upstream.Thing)["third"] is raw


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 2)
        self.reduce_results = True

    def reduce(self) -> str:
        return "reduced"


def _change(name: str, value: Any, owner: object) -> Change:
    return Change(row(f"Experts.{name}"), value, owner)


def test_a_step_that_raises_leaves_the_model_as_it_was() -> None:
    experts = _Experts()
    gate, own = experts.gate, set(vars(experts))
    changes = [
        _change("gate", None, experts),
        _change("reduce_results", False, experts),
        _change("reduce", lambda: "owed", experts),
    ]
    with pytest.raises(RuntimeError, match="in the step"), temporarily(changes):
        assert experts.gate is None and not experts.reduce_results and experts.reduce() == "owed"
        raise RuntimeError("in the step")
    assert experts.gate is gate and experts.reduce_results and experts.reduce() == "reduced"
    assert set(vars(experts)) == own and dict(experts.named_children()) == {"gate": gate}


def test_a_change_that_cannot_be_made_takes_the_others_back() -> None:
    experts = _Experts()
    gate = experts.gate
    changes = [_change("reduce_results", False, experts), _change("gate", "no module", experts)]
    with pytest.raises(TypeError, match="cannot assign"), temporarily(changes):
        pass
    assert experts.gate is gate and experts.reduce_results


def test_a_change_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(IncompatibleVllmError, match=r"_Experts has no reduce_output .*Install vllm==0"):
        _change("reduce_output", None, _Experts())


def test_a_mark_that_would_hide_an_attribute_of_the_class_is_refused(upstream: types.ModuleType) -> None:
    thing = upstream.Thing()
    change.mark(row("Thing"), thing, "ascend_ext_step", 1)
    change.mark(row("Thing"), thing, "ascend_ext_step", 2)
    assert thing.ascend_ext_step == 2
    with pytest.raises(IncompatibleVllmError, match=r"Thing has a second of its own \(vllm_for_test:Thing\)"):
        change.mark(row("Thing"), thing, "second", 1)
