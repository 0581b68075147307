# SPDX-License-Identifier: Apache-2.0
"""Our section on its way to an engine core that is a Ray actor: the same to read, wherever it arrives.

What it does in an actor is tested with Ray.
"""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

from vllm_ascend_ext.config import KEY
from vllm_ascend_ext.integration.startup.ray_actors import ActorSection, send_section

SECTION = {"mtp_output": {"enabled": True, "instance": 3}}


def _config(backend: str) -> Any:
    additional: dict[str, Any] = {KEY: copy.deepcopy(SECTION), "theirs": {"x": 1}}
    parallel = SimpleNamespace(data_parallel_backend=backend)
    return SimpleNamespace(additional_config=additional, parallel_config=parallel)


def test_a_section_arrives_as_it_was() -> None:
    config = _config("ray")
    before = json.dumps(config.additional_config)
    send_section(config)
    assert type(config.additional_config[KEY]) is ActorSection
    for arrived in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert type(arrived.additional_config[KEY]) is ActorSection  # it goes on to the workers
        assert arrived.additional_config[KEY] == SECTION
        assert json.dumps(arrived.additional_config) == before  # of which vLLM makes its hash


def test_a_section_is_sent_once() -> None:
    config = _config("ray")
    send_section(config)
    sent = config.additional_config
    send_section(config)
    assert config.additional_config is sent


def test_processes_of_vllm_get_a_plain_section() -> None:
    config = _config("mp")
    send_section(config)
    assert type(config.additional_config[KEY]) is dict
