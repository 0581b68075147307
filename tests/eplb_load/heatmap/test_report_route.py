# SPDX-License-Identifier: Apache-2.0
"""`GET /ascend_ext/report` on a real FastAPI application with vLLM's own key check; the engine is a double."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

import httpx  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from vllm.entrypoints.serve.utils.server_utils import AuthenticationMiddleware  # noqa: E402

from tests.eplb_load.heatmap.reports import two_ranks  # noqa: E402
from vllm_ascend_ext.integration.server import report  # noqa: E402

ON = {"ascend_ext": {"eplb_load": {"enabled": True}}}


class Engine:
    """What the route uses of vLLM's client."""

    def __init__(self, additional_config: dict[str, Any]) -> None:
        parallel_config = SimpleNamespace(world_size_across_dp=4)
        self.vllm_config = SimpleNamespace(additional_config=additional_config, parallel_config=parallel_config)
        self.num_calls, self.fails, self.hangs = 0, False, False

    async def collective_rpc(self, method: str) -> list[Any]:
        assert method == "ascend_ext_report"
        self.num_calls += 1
        if self.fails:
            raise RuntimeError("EngineDeadError")
        if self.hangs:
            await asyncio.Event().wait()
        return two_ranks(self.num_calls)


def served(engine: Engine, *, keys: list[str] | None = None, root_path: str = "") -> FastAPI:
    """The application as vLLM builds it: the key check outside of the routes, the stack built before ours."""
    app = FastAPI(root_path=root_path)
    app.state.engine_client = engine
    if keys:
        app.add_middleware(AuthenticationMiddleware, tokens=keys)
    app.middleware_stack = app.build_middleware_stack()
    report.serve(app)
    return app


def get(app: FastAPI, *paths: str, method: str = "GET", **headers: str) -> list[httpx.Response]:
    """Answers to requests that are sent at once."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await asyncio.gather(*(client.request(method, path, headers=headers) for path in paths))

    return asyncio.run(ask())


def test_the_reports_are_given_as_the_engine_gives_them() -> None:
    engine = Engine(ON)
    (answer,) = get(served(engine), "/ascend_ext/report")
    assert answer.status_code == 200 and answer.json() == two_ranks()
    assert answer.headers["Ascend-Ext-Num-Ranks"] == "4"


def test_many_readers_ask_the_engine_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(ON)
    app = served(engine)
    assert {answer.status_code for answer in get(app, *["/ascend_ext/report"] * 9)} == {200}
    assert engine.num_calls == 1
    monkeypatch.setattr(report, "_LEAST_AGE_S", 0.0)
    (answer,) = get(app, "/ascend_ext/report")
    assert answer.json() == two_ranks(2)


def test_the_servers_key_is_asked_for() -> None:
    engine = Engine(ON)
    app = served(engine, keys=["secret", "other"])
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        (answer,) = get(app, "/ascend_ext/report", **headers)
        assert answer.status_code == 401 and answer.json() == {"error": "Unauthorized"}
    assert engine.num_calls == 0
    for key in ("secret", "other"):
        (answer,) = get(app, "/ascend_ext/report", Authorization=f"Bearer {key}")
        assert answer.status_code == 200


def test_behind_a_proxy_and_without() -> None:
    app = served(Engine(ON), root_path="/behind")
    answers = get(app, "/behind/ascend_ext/report", "/ascend_ext/report", "/other/ascend_ext/report")
    assert [answer.status_code for answer in answers] == [200, 200, 404]


def test_a_dead_engine_is_said() -> None:
    engine = Engine(ON)
    engine.fails = True
    (answer,) = get(served(engine), "/ascend_ext/report")
    assert answer.status_code == 503 and "EngineDeadError" in answer.json()["error"]


def test_a_stuck_engine_holds_nobody_up_and_may_recover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_ANSWER_S", 0.2)
    engine = Engine(ON)
    engine.hangs = True
    app = served(engine)
    started = time.monotonic()
    for answer in get(app, *["/ascend_ext/report"] * 50):
        assert answer.status_code == 503 and "no answer within 0.2 s" in answer.json()["error"]
    assert time.monotonic() - started < 5  # not 50 times the deadline
    engine.hangs = False
    (answer,) = get(app, "/ascend_ext/report")
    assert answer.status_code == 200


@pytest.mark.parametrize("additional_config", [{}, {"other": 1}])
def test_without_our_worker_there_is_no_route(additional_config: dict[str, Any]) -> None:
    (answer,) = get(served(Engine(additional_config)), "/ascend_ext/report")
    assert answer.status_code == 404


def test_only_get_is_answered() -> None:
    (answer,) = get(served(Engine(ON)), "/ascend_ext/report", method="POST")
    assert answer.status_code == 405
