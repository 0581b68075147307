# SPDX-License-Identifier: Apache-2.0
"""/metrics of an engine that answers, answers later, or is dead, by every path."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

prometheus_client = pytest.importorskip("prometheus_client")

from vllm_ascend_ext.integration.eplb_load import metrics as load_metrics  # noqa: E402
from vllm_ascend_ext.integration.server import metrics as server_metrics  # noqa: E402


class Engine:
    """What the middleware uses of vLLM's client: the answers of two workers, of which the first one speaks."""

    def __init__(self) -> None:
        self.num_calls, self.tokens, self.dead = 0, 0, False
        self.free = asyncio.Event()
        self.free.set()

    async def collective_rpc(self, method: str) -> list[Any]:
        self.num_calls += 1
        await self.free.wait()
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


def test_totals_are_shown_as_they_are(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, middleware, passed = served
    monkeypatch.setattr(server_metrics, "_LEAST_AGE_S", 0.0)
    assert engine.num_calls == 0 and _value("tokens_total", model="target") is None
    for engine.tokens in (5, 9, 9):
        _get(middleware, "/metrics")
        assert _value("tokens_total", model="target") == engine.tokens
    assert _value("snapshots_total") == 3
    assert _value("imbalance_ratio", model="target", layers="0-1", over="experts") == 1.5
    assert passed == ["/metrics"] * 3


def test_many_readers_ask_the_engine_once_a_second(served: Any) -> None:
    engine, middleware, passed = served

    async def all_at_once() -> None:
        await asyncio.gather(*(middleware({"type": "http", "path": "/metrics/"}, None, None) for _ in range(9)))

    asyncio.run(all_at_once())
    assert engine.num_calls == 1 and len(passed) == 9


def test_no_request_waits_for_an_engine_that_is_busy(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is shown when it comes; one failure is counted, and the engine is asked once."""
    engine, middleware, passed = served
    engine.tokens = 7
    failures = prometheus_client.REGISTRY.get_sample_value
    labels = {"model_name": "tiny"}

    async def scrape() -> float:
        begin = time.monotonic()
        await asyncio.gather(*(middleware({"type": "http", "path": "/metrics"}, None, None) for _ in range(5)))
        return time.monotonic() - begin

    async def job() -> None:
        engine.free.clear()
        for _ in range(3):
            assert await scrape() < 0.9
        assert _value("tokens_total", model="target") is None and engine.num_calls == 1
        assert failures("vllm:ascend_ext_refresh_failures_total", labels) == 1
        engine.free.set()
        await asyncio.sleep(0.05)
        assert await scrape() < 0.4
        assert _value("tokens_total", model="target") == 7 and engine.num_calls == 1

    asyncio.run(job())
    assert len(passed) == 20


def test_every_path_that_leads_to_vllms_metrics_leads_to_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root path that the proxy strips or does not, and an application that mounts vLLM's."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.testclient import TestClient

    engine: Any = Engine()
    engine.tokens = 5
    parallel = SimpleNamespace(data_parallel_rank=0, data_parallel_size_local=1)
    engine.vllm_config = SimpleNamespace(
        additional_config={"ascend_ext": {"eplb_load": {"enabled": True}}},
        model_config=SimpleNamespace(served_model_name="tiny", model="tiny"),
        parallel_config=parallel,
    )
    app = Starlette(routes=[Route("/metrics", lambda request: PlainTextResponse("vLLM's"))])
    app.state.engine_client = engine
    before = set(prometheus_client.REGISTRY._collector_to_names)
    try:
        server_metrics.serve(app)
        around = Starlette(routes=[Mount("/inner", app)])
        clients = {
            "/metrics": TestClient(app),
            "/metrics/": TestClient(app),
            "/llm/metrics": TestClient(app, root_path="/llm"),
            "/inner/metrics": TestClient(around),
        }
        for path, client in clients.items():
            text = client.get(path).text
            assert 'eplb_load_tokens_total{model="target",model_name="tiny"} 5.0' in text, path
    finally:
        for collector in set(prometheus_client.REGISTRY._collector_to_names) - before:
            prometheus_client.REGISTRY.unregister(collector)


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
