# SPDX-License-Identifier: Apache-2.0
"""The way of our section past a vllm-ascend that refuses unknown keys: what it changes, and what stays."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.startup import section_channel
from vllm_ascend_ext.integration.startup.section_channel import TravellingSection
from vllm_ascend_ext.integration.upstream.versions import PAIRS

SECTION: dict[str, Any] = {"eplb_load": {"enabled": True, "interval": 3}}


@checked_dataclass(config=ConfigDict(extra="forbid"))
class StrictConfig:
    """As vllm-ascend 0.30's: keys that are no fields are refused."""

    known: int = 0


def test_a_section_that_travels_is_the_same_to_all_who_read_it() -> None:
    travelling = TravellingSection(SECTION)
    assert travelling == SECTION and json.dumps(travelling, sort_keys=True) == json.dumps(SECTION, sort_keys=True)
    read = ExtConfig.from_additional_config({"ascend_ext": travelling})
    assert read == ExtConfig.from_additional_config({"ascend_ext": SECTION})


@pytest.mark.parametrize("send", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "copy"])
def test_a_section_opens_the_channel_where_it_arrives(send: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(section_channel, "_leave_our_key_out", lambda: opened.append(True))
    arrived = send({"ascend_ext": TravellingSection(SECTION), "other": 1})
    assert opened == [True]
    assert arrived == {"ascend_ext": SECTION, "other": 1}
    assert isinstance(arrived["ascend_ext"], TravellingSection), "and goes on to further processes"


def test_only_our_key_is_left_out() -> None:
    open_class = section_channel._without_our_key(StrictConfig)
    config = open_class(known=1, ascend_ext=SECTION)
    assert config.known == 1 and not hasattr(config, "ascend_ext") and isinstance(config, StrictConfig)
    assert (open_class.__module__, open_class.__qualname__) == (StrictConfig.__module__, StrictConfig.__qualname__)
    with pytest.raises(ValidationError, match="other") as caught:
        open_class(ascend_ext=SECTION, other=1)
    assert "ascend_ext" not in str(caught.value)
    with pytest.raises(ValidationError, match="known"):
        open_class(known="text")


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_configuration_changes_only_where_it_must(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section_channel, "installed_pair", lambda: pair)
    given = {"ascend_ext": SECTION, "refresh": True}
    config = SimpleNamespace(additional_config=given)
    section_channel.send_section(config, "npu")
    assert config.additional_config == {"ascend_ext": SECTION, "refresh": True}
    travels = isinstance(config.additional_config["ascend_ext"], TravellingSection)
    assert travels == (pair.vllm == "0.30.0")
    assert given["ascend_ext"] is SECTION, "what the user has given stays as it is"
    if not travels:
        assert config.additional_config is given
    once = config.additional_config
    section_channel.send_section(config, "npu")
    assert config.additional_config is once
