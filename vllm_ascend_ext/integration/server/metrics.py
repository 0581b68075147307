# SPDX-License-Identifier: Apache-2.0
"""Shows our values on the /metrics of every API server.

Workers have no way of their own to an API server, and `SchedulerStats` has no field to spare. So a request for
/metrics first asks the engine by RPC, once for all features and at most once a second, in each API server for
itself. No request waits long: an engine that is busy for longer leaves the values as they were and counts a
failure, its answer is shown when it comes, and what shared memory tells is fresh all the same. Costs nothing while
nobody asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.registry import enabled
from vllm_ascend_ext.integration.server.all_workers import ask_all_workers
from vllm_ascend_ext.integration.upstream.metric_set import MetricSet, ShownMetric

logger = logging.getLogger(__name__)

PREFIX = "vllm:ascend_ext_"
PATHS = ("/metrics", "/metrics/")
_LEAST_AGE_S = 1.0  # younger values are shown as they are
_ANSWER_S = 0.5  # that a request waits at most; Prometheus gives up after 10 s, and loses vLLM's values, too


def serve(app: Any) -> None:
    """Has the /metrics of a server that is about to start show the values of the features that are on.

    Our route comes before vLLM's, in the same router, so that every path and every middleware that leads to theirs
    leads to ours (`--root-path`, mounts).
    """
    client = getattr(app.state, "engine_client", None)
    if client is None:
        return
    config = ExtConfig.from_additional_config(client.vllm_config.additional_config)
    if config is None:
        return
    name = _model_name(client)
    sets = {
        feature.name: feature.metric_set(name) for feature in enabled(config) if feature.metric_set is not None
    }
    if not sets:
        return
    from prometheus_client import REGISTRY, make_asgi_app
    from starlette.routing import Route
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    registry = get_prometheus_registry()  # of several API servers a new one, which reads the files of all
    refresh = MetricsRefresh(make_asgi_app(registry=registry), client, sets, name)
    if registry is not REGISTRY:
        for metric in refresh.metrics():
            registry.register(metric)
    app.router.routes[:0] = [Route(path, refresh, methods=["GET"]) for path in PATHS]


def _model_name(client: Any) -> str:
    model_config = client.vllm_config.model_config
    names = model_config.served_model_name
    return str(names[0] if isinstance(names, list) else names or model_config.model)


class MetricsRefresh:
    """Refreshes the values before /metrics is answered, as an ASGI application around the one that answers.

    Args:
        app: the application that answers.
        client: vLLM's engine client.
        sets: feature → its metrics.
        model_name: first label of every metric, the served model's name.
    """

    def __init__(self, app: Any, client: Any, sets: dict[str, MetricSet], model_name: str) -> None:
        self._app, self._client, self._sets, self._model_name = app, client, sets, model_name
        self._vllm_config = getattr(client, "vllm_config", None)
        self._config = self._vllm_config and ExtConfig.from_additional_config(self._vllm_config.additional_config)
        text = "Times the engine did not answer at once."
        self._failures = ShownMetric("counter", PREFIX + "refresh_failures", text, ["model_name"])
        self._num_failures = 0
        self._failures.show(0, model_name)
        self._asking: asyncio.Task[None] | None = None
        self._asked_s = -_LEAST_AGE_S
        self._is_late = False

    def metrics(self) -> list[ShownMetric]:
        """Returns all metrics, our own and those of the features."""
        return [self._failures, *(metric for shown in self._sets.values() for metric in shown.metrics.values())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["type"] == "http":
            await self._refresh()
        await self._app(scope, receive, send)

    async def _refresh(self) -> None:
        """Waits for the engine's answer, all requests for the same one, and looks at what needs none."""
        if self._asking is None and time.monotonic() - self._asked_s >= _LEAST_AGE_S:
            self._asking, self._is_late = asyncio.create_task(self._ask()), False
        if (asking := self._asking) is not None:
            await asyncio.wait({asking}, timeout=_ANSWER_S)
            if not asking.done() and not self._is_late:
                self._is_late = True
                self._fail(f"no answer within {_ANSWER_S:g} s")
        if self._config:
            for name, shown in self._sets.items():
                shown.look(self._vllm_config, getattr(self._config, name))

    async def _ask(self) -> None:
        try:
            answers = await ask_all_workers(self._client, "ascend_ext_metrics")
            for answer in filter(None, answers):
                for name, values in answer.items():
                    if name in self._sets:
                        self._sets[name].show(values)
        except Exception as error:  # a dead or busy engine must not take /metrics with it
            self._fail(repr(error))
        finally:
            self._asking, self._asked_s = None, time.monotonic()

    def _fail(self, reason: str) -> None:
        logger.warning("ascend_ext: values on /metrics are old: %s", reason)
        self._num_failures += 1
        self._failures.show(self._num_failures, self._model_name)
