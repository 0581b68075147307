# SPDX-License-Identifier: Apache-2.0
"""Checks refusals as data: what tables may hold, how texts are filled, and what is kept of a wrong section."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Refusal, Rule, refusals
from vllm_ascend_ext.integration.registry import FEATURES, enabled
from vllm_ascend_ext.integration.upstream.devices import DEVICES

STACKS = {device.load_stack().name for device in DEVICES.values()}
RULES = [(feature.name, rule) for feature in FEATURES for rule in feature.rules]


def deployment(device_type: str = "cpu", **settings: Any) -> Deployment:
    device = DEVICES[device_type]
    return Deployment(SimpleNamespace(**settings), ExtConfig(), device, device.load_stack())


def test_features_are_the_sections_of_the_configuration() -> None:
    assert tuple(feature.name for feature in FEATURES) == tuple(ExtConfig.model_fields)
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
