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
from vllm_ascend_ext.integration.startup import ray_actors, section_channel
from vllm_ascend_ext.integration.startup.travelling_section import TravellingSection, send_section
from vllm_ascend_ext.integration.upstream.versions import PAIRS

SECTION: dict[str, Any] = {"eplb_load": {"enabled": True, "interval": 3}}


@checked_dataclass(config=ConfigDict(extra="forbid"))
class StrictConfig:
    """As vllm-ascend 0.30's: keys that are no fields are refused."""

    known: int = 0


def test_a_section_that_travels_is_the_same_to_all_who_read_it() -> None:
    travelling = TravellingSection(SECTION, opens_channel=True)
    assert travelling == SECTION and json.dumps(travelling, sort_keys=True) == json.dumps(SECTION, sort_keys=True)
    read = ExtConfig.from_additional_config({"ascend_ext": travelling})
    assert read == ExtConfig.from_additional_config({"ascend_ext": SECTION})


@pytest.mark.parametrize("is_needed", [True, False])
@pytest.mark.parametrize("send", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "copy"])
def test_a_section_prepares_a_process_where_it_arrives(
    send: Any, is_needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, prepared = [], []
    monkeypatch.setattr(section_channel, "leave_our_key_out", lambda: opened.append(True))
    monkeypatch.setattr(ray_actors, "prepare_this_actor", lambda: prepared.append(True))
    arrived = send({"ascend_ext": TravellingSection(SECTION, is_needed), "other": 1})
    assert (opened, prepared) == ([True] if is_needed else [], [True])
    assert arrived["ascend_ext"].opens_channel == is_needed
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


@pytest.mark.parametrize("backend", ["mp", "ray"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_configuration_changes_only_where_it_must(
    pair: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(section_channel, "installed_pair", lambda: pair)
    given = {"ascend_ext": SECTION, "refresh": True}
    parallel_config = SimpleNamespace(data_parallel_backend=backend)
    config = SimpleNamespace(additional_config=given, parallel_config=parallel_config)
    send_section(config, "npu")
    assert config.additional_config == {"ascend_ext": SECTION, "refresh": True}
    travels = isinstance(config.additional_config["ascend_ext"], TravellingSection)
    assert travels == (pair.vllm == "0.30.0" or backend == "ray")
    assert given["ascend_ext"] is SECTION, "what the user has given stays as it is"
    if not travels:
        assert config.additional_config is given
    once = config.additional_config
    send_section(config, "npu")
    assert config.additional_config is once
