# SPDX-License-Identifier: Apache-2.0
"""Checks refusals as data: what tables may hold, how texts are filled, and what is kept of a wrong section."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.refusal import Refusal, Rule, refusals
from vllm_ascend_ext.integration.registry import FEATURES, enabled
from vllm_ascend_ext.integration.startup import checks
from vllm_ascend_ext.integration.upstream.devices import DEVICES

STACKS = {device.load_stack().name for device in DEVICES.values()}
RULES = [(feature.name, rule) for feature in FEATURES for rule in feature.rules]


def deployment(device_type: str = "cpu", **settings: Any) -> Deployment:
    device = DEVICES[device_type]
    return Deployment(SimpleNamespace(**settings), ExtConfig(), device, device.load_stack())


def test_features_are_the_sections_of_the_configuration() -> None:
    assert tuple(feature.name for feature in FEATURES) == ExtConfig.sections()
    assert enabled(ExtConfig()) == []
    on = ExtConfig.model_validate({"mtp_output": {"enabled": True}, "eplb_load": {"enabled": True}})
    assert [feature.name for feature in enabled(on)] == ["eplb_load", "mtp_output"]


@pytest.mark.parametrize(("feature", "rule"), RULES, ids=lambda value: getattr(value, "setting", value))
def test_rules_say_what_why_and_what_to_do(feature: str, rule: Rule) -> None:
    assert rule.setting and rule.stack in {"", *STACKS}
    assert re.match(r"(and|with|[a-z]+s|would|cannot|needs?|is|has)\b", rule.why), rule.why
    assert not rule.why.endswith(".") and not rule.instead.endswith(".")
    assert re.search(r"\b(set|use|turn|leave|choose|raise|lower|remove|name|make)\b", rule.instead), rule.instead


def test_texts_are_filled_with_what_was_found() -> None:
    rule = Rule(
        "max_model_len",
        "takes at most 7, not {found}",
        "set it to {best}",
        lambda d: d.vllm_config.length > 7 and {"found": d.vllm_config.length, "best": 7},
        key="x={found}",
    )
    assert rule.check("eplb_load", deployment(length=7)) is None
    refusal = rule.check("eplb_load", deployment(length=9))
    assert refusal == Refusal("ascend_ext.eplb_load.x=9", "max_model_len", "takes at most 7, not 9", "set it to 7")
    assert str(refusal) == "ascend_ext.eplb_load.x=9 takes at most 7, not 9; set it to 7"


def test_a_rule_of_one_stack_is_not_asked_elsewhere() -> None:
    def asked(_: Deployment) -> bool:
        raise AssertionError("asked")

    rules = [Rule("a", "is", "set it", asked, stack="vllm-ascend"), Rule("b", "is", "set it", lambda d: True)]
    assert [refusal.setting for refusal in refusals("eplb_load", rules, deployment("cpu"))] == ["b"]
    with pytest.raises(AssertionError, match="asked"):
        refusals("eplb_load", rules, deployment("npu"))


def test_what_is_right_beside_what_is_wrong_is_kept() -> None:
    section = {
        "eplb_load": {"enabled": True, "interval": "often", "slots": 3, "phases": "all"},
        "mtp_output": 5,
        "dp_gatherer": {},
    }
    config, problems = ExtConfig.salvage({"ascend_ext": section, "ascend-ext": {}})
    assert config == ExtConfig.model_validate({"eplb_load": {"enabled": True, "slots": 3}})
    assert len(problems) == 5
    for words in ("ascend-ext", "eplb_load.phases", "dp_gatherer", "eplb_load.interval", "mtp_output"):
        assert sum(words in problem.split(":")[0] for problem in problems) == 1, problems
    assert ExtConfig.salvage(None) == (None, [])
    assert ExtConfig.salvage({}) == (None, [])
    assert ExtConfig.salvage({"ascend_ext": {}}) == (ExtConfig(), [])


def test_nothing_is_refused_by_a_default_that_stands_for_what_is_wrong() -> None:
    """A misspelt transport is one problem, not two; what else the section asks for is judged all the same."""
    transport = Refusal("ascend_ext.mtp_output", "mtp_output.transport, mtp_output.endpoint", "needs", "set both")
    logprobs = Refusal("ascend_ext.mtp_output", "max_logprobs", "copies", "set it to 20")
    switched = Refusal("ascend_ext.attn_scatter", "attn_scatter.enabled", "takes", "use that one")
    wrong = [
        "ascend_ext.mtp_output.transport: expected one of 'ring', 'zmq'",
        "ascend_ext.attn_scatter.ful: unknown",
    ]
    assert checks._judges_a_default(transport, wrong)
    assert not checks._judges_a_default(transport, wrong[1:])
    assert not checks._judges_a_default(logprobs, wrong)
    assert not checks._judges_a_default(switched, wrong)


def test_a_changed_vllm_is_named_even_where_the_rules_do_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules then meet attributes that are gone; alone, without a named reason, that is an error of ours."""

    def other_version() -> str:
        raise IncompatibleVllmError("vLLM 0.99.0 is not a tested version")

    monkeypatch.setattr(checks, "check_installed", lambda device_type, features: None)
    monkeypatch.setattr(checks.versions, "check_vllm_version", other_version)
    (error,) = checks.problems_of(SimpleNamespace(), ExtConfig(), "cpu")
    assert "0.99.0" in str(error)
    monkeypatch.setattr(checks.versions, "check_vllm_version", lambda: "0.23.0")
    with pytest.raises(AttributeError):
        checks.problems_of(SimpleNamespace(), ExtConfig(), "cpu")
