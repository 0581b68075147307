# SPDX-License-Identifier: Apache-2.0
"""Checks how a worker binds and closes its features: in order, all of them, whatever one of them raises."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration import worker
from vllm_ascend_ext.integration.eplb_load.feature import NothingToCount
from vllm_ascend_ext.integration.errors import MovedExpertsError


class Bound:
    """Notes its end, which may fail."""

    def __init__(self, name: str, ends: list[str], *, fails: bool) -> None:
        self._name, self._ends, self._fails = name, ends, fails

    def close(self) -> None:
        self._ends.append(self._name)
        if self._fails:
            raise RuntimeError(f"{self._name} cannot end")


class Feature:
    """Binds to a `Bound`, or cannot."""

    def __init__(self, name: str, ends: list[str], *, binds: bool = True, ends_badly: bool = False) -> None:
        self.name, self._ends, self._binds, self._ends_badly = name, ends, binds, ends_badly

    def before_load(self, config: Any, stack: Any) -> Any:
        return nullcontext()

    def bind(self, of: Any, config: Any, stack: Any) -> Bound:
        if not self._binds:
            raise RuntimeError(f"{self.name} cannot bind")
        return Bound(self.name, self._ends, fails=self._ends_badly)


class DeviceWorker:
    """Stands for the device's worker; notes its end."""

    ends: list[str]

    def load_model(self) -> None: ...

    def reload_weights(self, path: str) -> None:
        self.ends.append(f"loaded {path}")

    def start_weight_update(self, is_checkpoint_format: bool = True) -> None:
        self.ends.append(f"update {is_checkpoint_format}")

    def shutdown(self) -> None:
        self.ends.append("device")


class Worker(worker.ExtWorker, DeviceWorker):
    """Has no engine, so that the configuration and the stack are given."""

    ext_config, stack = ExtConfig(), None  # type: ignore[assignment]


def _worker(monkeypatch: pytest.MonkeyPatch, ends: list[str], *features: Feature) -> Worker:
    monkeypatch.setattr(worker, "enabled", lambda config: list(features))
    made = Worker()
    made.ends = ends
    return made


def test_features_end_last_first_and_before_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    made = _worker(monkeypatch, ends, Feature("eplb_load", ends), Feature("mtp_output", ends))
    made.load_model()
    assert list(made.bound_features) == ["eplb_load", "mtp_output"]
    made.shutdown()
    assert ends == ["mtp_output", "eplb_load", "device"]


def test_what_is_bound_ends_when_a_later_feature_cannot_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    made = _worker(monkeypatch, ends, Feature("eplb_load", ends), Feature("mtp_output", ends, binds=False))
    with pytest.raises(RuntimeError, match="mtp_output cannot bind"):
        made.load_model()
    assert ends == ["eplb_load"] and not made.bound_features


def test_everything_ends_although_one_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    features = Feature("eplb_load", ends), Feature("mtp_output", ends, ends_badly=True)
    made = _worker(monkeypatch, ends, *features)
    made.load_model()
    with pytest.raises(RuntimeError, match="mtp_output cannot end"):
        made.shutdown()
    assert ends == ["mtp_output", "eplb_load", "device"]


def test_weights_are_not_loaded_where_experts_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they were at first, with two copies behind, they may be loaded; one layer that differs forbids it."""
    calls: list[str] = []
    made = _worker(monkeypatch, calls)
    placement = torch.tensor([[0, 1, 2, 3, 0, 1]] * 2)
    target = SimpleNamespace()
    state = SimpleNamespace(model=target, physical_to_logical_map=placement)
    eplb_state = SimpleNamespace(model_states={"target": state})
    made.model_runner = SimpleNamespace(eplb_state=None, get_model=lambda: target)
    for present in (None, eplb_state):
        made.model_runner.eplb_state = present
        made.reload_weights("new")
        made.start_weight_update(is_checkpoint_format=False)
    assert calls == ["loaded new", "update False"] * 2
    placement[1] = torch.tensor([3, 1, 2, 0, 0, 1])
    for call in (lambda: made.reload_weights("new"), made.start_weight_update):
        with pytest.raises(MovedExpertsError, match="is refused: EPLB has moved experts of the target"):
            call()
    assert len(calls) == 4


def test_a_stage_without_experts_reports_that_it_counted_nothing() -> None:
    nothing = NothingToCount()
    assert nothing.report() == {"has_handovers": False, "load": [], "collection": None}
    assert nothing.metric_values() is None
    nothing.reset()
    nothing.close()
