# SPDX-License-Identifier: Apache-2.0
"""What is changed in a model for a step is what it was afterwards, also when the step raises."""

from __future__ import annotations

import pytest
from torch import nn

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.switches import Switches


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 2)
        self.reduce_results = True

    def reduce(self) -> str:
        return "reduced"


def test_a_step_that_raises_leaves_the_model_as_it_was() -> None:
    experts = _Experts()
    gate, own = experts.gate, set(vars(experts))
    switches = Switches(
        [
            (experts, "gate", None),
            (experts, "reduce_results", False),
            (experts, "reduce", lambda: "owed"),
        ]
    )
    with pytest.raises(RuntimeError, match="in the step"), switches.thrown():
        assert experts.gate is None and not experts.reduce_results and experts.reduce() == "owed"
        raise RuntimeError("in the step")
    assert experts.gate is gate and experts.reduce_results and experts.reduce() == "reduced"
    assert set(vars(experts)) == own and dict(experts.named_children()) == {"gate": gate}


def test_a_switch_that_cannot_be_thrown_takes_the_others_back() -> None:
    experts = _Experts()
    gate = experts.gate
    switches = Switches([(experts, "reduce_results", False), (experts, "gate", "no module")])
    with pytest.raises(TypeError, match="cannot assign"), switches.thrown():
        pass
    assert experts.gate is gate and experts.reduce_results


def test_a_switch_that_changes_nothing_is_refused() -> None:
    with pytest.raises(IncompatibleVllmError, match=r"_Experts has no reduce_output\. Install vllm==0"):
        Switches([(_Experts(), "reduce_output", None)])
