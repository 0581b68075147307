# SPDX-License-Identifier: Apache-2.0
"""/metrics in front of an engine that answers, answers later, or is dead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

prometheus_client = pytest.importorskip("prometheus_client")

from vllm_ascend_ext.integration.eplb_load import metrics as load_metrics  # noqa: E402
from vllm_ascend_ext.integration.server import metrics as server_metrics  # noqa: E402


class Engine:
    """What the middleware uses of vLLM's client: the answers of two workers, of which the first one speaks."""

    def __init__(self) -> None:
        self.num_calls, self.tokens, self.dead = 0, 0, False

    async def collective_rpc(self, method: str) -> list[Any]:
        self.num_calls += 1
        if self.dead:
            raise RuntimeError("EngineDeadError")
        assert method == "ascend_ext_metrics"
        row = {"model": "target", "layers": "0-1", "over": "experts", "ratio": 1.5}
        counts = dict.fromkeys(load_metrics._COUNTERS, 3)
        return [{"eplb_load": {**counts, "tokens": {"target": self.tokens}, "imbalance": [row]}}, {}]


@pytest.fixture
def served() -> Any:
    """(engine, middleware, paths that were passed on)."""
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["path"])

    before = set(prometheus_client.REGISTRY._collector_to_names)
    engine = Engine()
    sets = {"eplb_load": load_metrics.ExpertLoadMetrics("tiny")}
    yield engine, server_metrics.MetricsRefresh(app, engine, sets, "tiny"), passed
    for collector in set(prometheus_client.REGISTRY._collector_to_names) - before:
        prometheus_client.REGISTRY.unregister(collector)


def _get(middleware: Any, path: str) -> None:
    asyncio.run(middleware({"type": "http", "path": path}, None, None))


def _value(name: str, **labels: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(
        f"vllm:ascend_ext_eplb_load_{name}", {"model_name": "tiny", **labels}
    )


def test_totals_become_increments_and_only_metrics_asks(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, middleware, passed = served
    monkeypatch.setattr(server_metrics, "_LEAST_AGE_S", 0.0)
    _get(middleware, "/v1/completions")
    assert engine.num_calls == 0 and _value("tokens_total", model="target") is None
    for engine.tokens in (5, 9, 9):
        _get(middleware, "/metrics")
        assert _value("tokens_total", model="target") == engine.tokens
    assert _value("snapshots_total") == 3
    assert _value("imbalance_ratio", model="target", layers="0-1", over="experts") == 1.5
    assert passed == ["/v1/completions", *["/metrics"] * 3]


def test_many_readers_ask_the_engine_once_a_second(served: Any) -> None:
    engine, middleware, passed = served

    async def all_at_once() -> None:
        await asyncio.gather(*(middleware({"type": "http", "path": "/metrics/"}, None, None) for _ in range(9)))

    asyncio.run(all_at_once())
    assert engine.num_calls == 1 and len(passed) == 9


def test_dead_engine_leaves_the_values_and_says_so(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, middleware, passed = served
    monkeypatch.setattr(server_metrics, "_LEAST_AGE_S", 0.0)
    engine.tokens = 4
    _get(middleware, "/metrics")
    engine.dead = True
    _get(middleware, "/metrics")
    assert passed == ["/metrics"] * 2
    assert _value("tokens_total", model="target") == 4
    failures = prometheus_client.REGISTRY.get_sample_value
    assert failures("vllm:ascend_ext_refresh_failures_total", {"model_name": "tiny"}) == 1
