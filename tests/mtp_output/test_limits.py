# SPDX-License-Identifier: Apache-2.0
"""What MTP output saving refuses at start-up, each with what to do about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.config import VllmConfig, set_current_vllm_config

from tests.support.refused import refused
from tests.support.saved_output import next_instance
from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.startup.checks import refusals_of
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender


def vllm_config(**changes: Any) -> Any:
    """A supported one, changed at dotted names."""
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(
            data_parallel_size=2,
            data_parallel_rank=0,
            data_parallel_size_local=2,
            prefill_context_parallel_size=1,
            distributed_executor_backend="mp",
            enable_elastic_ep=False,
        ),
        model_config=SimpleNamespace(runner_type="generate", max_logprobs=20, enable_return_routed_experts=False),
        speculative_config=None,
        kv_transfer_config=None,
    )
    for name, value in changes.items():
        *path, last = name.split("__")
        owner = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, value)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel_config__prefill_context_parallel_size": 2}, "prefill_context_parallel_size to 1"),
        (
            {"parallel_config__distributed_executor_backend": "their.Own"},
            "not of 'their.Own'; set distributed_executor",
        ),
        ({"parallel_config__enable_elastic_ep": True}, "turn enable_elastic_ep off"),
        ({"kv_transfer_config": SimpleNamespace(kv_load_failure_policy="recompute")}, "set it to 'fail': a"),
        (
            {"speculative_config": SimpleNamespace(method="ngram_gpu", draft_model_config=None)},
            "do not work together; use 'ngram'",
        ),
        ({"model_config__runner_type": "pooling"}, "a pooling model has none; set mtp_output.enabled to false"),
        ({"model_config__max_logprobs": -1}, "-1 is a whole vocabulary; set it to 20"),
        ({"model_config__enable_return_routed_experts": True}, "turn one off"),
    ],
    ids=str,
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    (line,) = refused("mtp_output", vllm_config(**changes))
    assert line.startswith("ascend_ext.mtp_output ") and message in line


def test_endpoint_belongs_to_zmq() -> None:
    for settings in ({"transport": "zmq"}, {"endpoint": "tcp://127.0.0.1:5555"}):
        (line,) = refused("mtp_output", vllm_config(), **settings)
        assert "needs `endpoint` with transport 'zmq'" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "localhost:5600"}, "endpoint 'localhost:5600': expected tcp://HOST:PORT"),
        ({"endpoint": "tcp://localhost:65535"}, "with room for replica 1's port"),
        ({"endpoint": "tcp://localhost:5600", "reader": "none"}, "set reader to 'required'"),
    ],
)
def test_zmq_needs_an_address_and_a_reader(settings: dict[str, Any], message: str) -> None:
    (line,) = refused("mtp_output", vllm_config(), transport="zmq", **settings)
    assert message in line


def test_an_instance_whose_engine_lives_is_refused() -> None:
    """Of all replicas of this host; what a dead engine left is none's."""
    instance = next_instance()
    size = RingSize.for_engine(2, 1)
    sender = OutputSender(instance, 1, size)
    (line,) = refused("mtp_output", vllm_config(), instance=instance)
    assert line.startswith(f"ascend_ext.mtp_output.instance={instance} has the ring {sender.path}, which process ")
    assert "; set mtp_output.instance to another number" in line
    assert refused("mtp_output", vllm_config(parallel_config__data_parallel_size_local=1), instance=instance) == []
    assert refused("mtp_output", vllm_config(parallel_config__data_parallel_rank=2), instance=instance) == []
    assert refused("mtp_output", vllm_config(), instance=next_instance()) == []
    sender.close()
    assert refused("mtp_output", vllm_config(), instance=instance) == []


def test_an_engine_at_work_is_not_its_own_neighbour() -> None:
    """A rank that is slow to load derives its drafter's configuration when another one has made the ring."""
    instance = next_instance()
    sender = OutputSender(instance, 1, RingSize.for_engine(2, 1))
    with set_current_vllm_config(VllmConfig()):
        assert refused("mtp_output", vllm_config(), instance=instance) == []
    assert refused("mtp_output", vllm_config(), instance=instance) != []
    sender.close()


def test_supported_with_and_without_drafts() -> None:
    assert refused("mtp_output", vllm_config()) == []
    draft = SimpleNamespace(runner_type="draft")
    speculative = SimpleNamespace(method="mtp", draft_model_config=draft, target_model_config=None)
    assert refused("mtp_output", vllm_config(speculative_config=speculative)) == []


def test_the_draft_models_own_configuration_is_left_alone() -> None:
    """It comes by once more, after the engine's own has been checked."""
    draft = SimpleNamespace(runner_type="draft", max_logprobs=20, enable_return_routed_experts=False)
    speculative = SimpleNamespace(method="mtp", draft_model_config=draft, target_model_config=None)
    config = vllm_config(speculative_config=speculative, model_config=draft)
    on = ExtConfig.model_validate({"mtp_output": {"enabled": True}})
    assert refused("mtp_output", config) != []
    assert refusals_of(config, on, "cpu") == []
