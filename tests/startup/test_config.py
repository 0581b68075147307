# SPDX-License-Identifier: Apache-2.0
import difflib

import pytest
from pydantic import ValidationError

from vllm_ascend_ext.config import ConfigError, ExtConfig

SECTIONS = ", ".join(ExtConfig.model_fields)
NEAREST_TO_7 = difflib.get_close_matches("7", list(ExtConfig.model_fields), n=1, cutoff=0.0)[0]


def test_absent_key_means_no_configuration():
    assert ExtConfig.from_additional_config(None) is None
    assert ExtConfig.from_additional_config({"eplb_config": {}, "ascend_scheduler_config": {}}) is None


def test_everything_is_off_until_asked_for():
    config = ExtConfig.from_additional_config({"ascend_ext": {}})
    assert config == ExtConfig()
    assert config is not None and config.features() == ()


def test_enabled_sections_are_features():
    config = ExtConfig.from_additional_config({"ascend_ext": {"eplb_load": {"enabled": True}}})
    assert config is not None and config.features() == ("eplb_load",)


def test_frozen_and_hashable():
    config = ExtConfig()
    assert hash(config) == hash(ExtConfig())
    with pytest.raises(ValidationError):
        config.eplb_load.enabled = True


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"eplb_lod": {}},
            f"ascend_ext.eplb_lod: unknown key; did you mean 'eplb_load'? Valid keys: {SECTIONS}",
        ),
        (
            {"eplb_load": {"enable": True}},
            "ascend_ext.eplb_load.enable: unknown key; did you mean 'enabled'? Valid keys: enabled, "
            "interval, phase, aggregation, slots, deadline_s, rebalance, rebalance_lead",
        ),
        ({"eplb_load": {"enabled": "yes"}}, "ascend_ext.eplb_load.enabled: expected bool, got 'yes' (str)"),
        ({"eplb_load": {"enabled": 1}}, "ascend_ext.eplb_load.enabled: expected bool, got 1 (int)"),
        ({"eplb_load": {"interval": 0}}, "ascend_ext.eplb_load.interval: expected int at least 1, got 0 (int)"),
        (
            {"eplb_load": {"slots": 17}},
            "ascend_ext.eplb_load.slots: expected int at least 1 and at most 16, got 17 (int)",
        ),
        (
            {"attn_scatter": {"min_tokens": 0}},
            "ascend_ext.attn_scatter.min_tokens: expected int | null at least 1, got 0 (int)",
        ),
        (
            {"attn_scatter": {"min_tokens": "some"}},
            "ascend_ext.attn_scatter.min_tokens: expected int | null at least 1, got 'some' (str)",
        ),
        (
            {"eplb_load": {"phase": "both"}},
            "ascend_ext.eplb_load.phase: expected one of 'all', 'prefill', 'decode', got 'both' (str)",
        ),
        ({"eplb_load": True}, "ascend_ext.eplb_load: expected a mapping, got True (bool)"),
        ({"mend_races": 1}, "ascend_ext.mend_races: expected bool, got 1 (int)"),
        ({"eplb_load": None}, "ascend_ext.eplb_load: expected a mapping, got None (NoneType)"),
        ({7: {}}, f"ascend_ext.7: unknown key; did you mean {NEAREST_TO_7!r}? Valid keys: {SECTIONS}"),
        (None, "ascend_ext: expected a mapping, got None (NoneType)"),
        (["eplb_load"], "ascend_ext: expected a mapping, got ['eplb_load'] (list)"),
    ],
)
def test_problem_is_one_clear_line(value, message):
    with pytest.raises(ConfigError) as error:
        ExtConfig.from_additional_config({"ascend_ext": value})
    assert str(error.value) == message


def test_every_problem_has_its_line():
    with pytest.raises(ConfigError) as error:
        ExtConfig.from_additional_config({"ascend_ext": {"nonsense": 1, "eplb_load": {"enabled": 2, "x": 3}}})
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ascend_ext.nonsense",
        "ascend_ext.eplb_load.x",
        "ascend_ext.eplb_load.enabled",
    ]


@pytest.mark.parametrize(
    "key", ["ascend-ext", "ascendext", "vllm_ascend_ext", "Ascend_Ext", "ascend_exts", "asend_ext"]
)
def test_misspelt_top_level_key_is_named(key):
    with pytest.raises(ConfigError, match=f"additional_config.{key}: unknown key; did you mean 'ascend_ext'"):
        ExtConfig.from_additional_config({key: {}})


@pytest.mark.parametrize(
    "key",
    [
        "ascend_scheduler_config",
        "ascend_compilation_config",
        "ascend_fusion_config",
        "eplb_config",
        "refresh",
    ],
)
def test_keys_of_vllm_ascend_are_left_alone(key):
    assert ExtConfig.from_additional_config({key: {}}) is None
