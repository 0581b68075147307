# SPDX-License-Identifier: Apache-2.0
"""Refreshes our values on a server's /metrics.

Workers have no way of their own to the API server, and `SchedulerStats` has no field to spare. So a request for
/metrics first asks the engine by RPC, once for all features and at most once a second; an engine that does not
answer in time leaves the values as they were and counts a failure. Costs nothing while nobody asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.registry import enabled
from vllm_ascend_ext.integration.upstream.metric_set import MetricSet
from vllm_ascend_ext.integration.upstream.seams import change

logger = logging.getLogger(__name__)

PREFIX = "vllm:ascend_ext_"
_LEAST_AGE_S = 1.0  # younger values are shown as they are
_ANSWER_S = 5.0


def serve(app: Any) -> None:
    """Has the /metrics of a server that is about to start show the values of the features that are on.

    Of several API servers of one engine, the first shows them.
    """
    client = getattr(app.state, "engine_client", None)
    if client is None:
        return
    config = ExtConfig.from_additional_config(client.vllm_config.additional_config)
    if config is None or getattr(client.engine_core, "client_index", 0) != 0:
        return
    name = _model_name(client)
    sets = {
        feature.name: feature.metric_set(name) for feature in enabled(config) if feature.metric_set is not None
    }
    if sets:
        # vLLM has had the stack of middleware built already, and add_middleware refuses after that
        stack = app.middleware_stack or app.build_middleware_stack()
        change.stand_in(app, "middleware_stack", MetricsRefresh(stack, client, sets, name))


def _model_name(client: Any) -> str:
    model_config = client.vllm_config.model_config
    names = model_config.served_model_name
    return str(names[0] if isinstance(names, list) else names or model_config.model)


class MetricsRefresh:
    """Refreshes the values before /metrics is answered, as an ASGI middleware.

    Args:
        app: the next application.
        client: vLLM's engine client.
        sets: feature → its metrics.
        model_name: first label of every metric, the served model's name.
    """

    def __init__(self, app: Any, client: Any, sets: dict[str, MetricSet], model_name: str) -> None:
        from prometheus_client import Counter

        self._app, self._client, self._sets = app, client, sets
        self._lock = asyncio.Lock()
        self._refreshed_s = -_LEAST_AGE_S
        failures = Counter(PREFIX + "refresh_failures", "Times the engine did not answer.", ["model_name"])
        self._failures = failures.labels(model_name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one connection."""
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/metrics":
            async with self._lock:
                if time.monotonic() - self._refreshed_s >= _LEAST_AGE_S:
                    await self._refresh()
                    self._refreshed_s = time.monotonic()
        await self._app(scope, receive, send)

    async def _refresh(self) -> None:
        try:
            answers = await asyncio.wait_for(self._client.collective_rpc("ascend_ext_metrics"), _ANSWER_S)
        except Exception as error:  # a dead or busy engine must not take /metrics with it
            logger.warning("ascend_ext: values on /metrics are old: %r", error)
            self._failures.inc()
            return
        for answer in filter(None, answers):
            for name, values in answer.items():
                if name in self._sets:
                    self._sets[name].show(values)
