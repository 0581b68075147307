# SPDX-License-Identifier: Apache-2.0
"""Values of the workers on a server's /metrics.

Workers have no way of their own to the API server, and `SchedulerStats` has no field to spare. So a request for
/metrics first asks the engine by RPC, at most once a second; an engine that does not answer in time leaves the
values as they were and counts a failure. Costs nothing while nobody asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

logger = logging.getLogger(__name__)

_LEAST_AGE_S = 1.0  # values younger than this are not asked for again
_ANSWER_S = 5.0


class EngineMetrics(ABC):
    """ASGI middleware: before /metrics is answered, the values are refreshed.

    app: the next application. client: vLLM's engine client.

    prefix: of the metrics' names. rpc: the method of the workers that is asked. subject: in words.
    """

    prefix: ClassVar[str]
    rpc: ClassVar[str]
    subject: ClassVar[str]

    def __init__(self, app: Any, client: Any) -> None:
        self._app, self._client = app, client
        model_config = client.vllm_config.model_config
        names = model_config.served_model_name
        self.model_name = names[0] if isinstance(names, list) else str(names or model_config.model)
        self._counters: dict[str, Any] = {}
        self._counted: dict[tuple[str, ...], float] = {}
        self._lock = asyncio.Lock()
        self._refreshed_s = -_LEAST_AGE_S
        self.add_counter("refresh_failures", "Times the engine did not answer.")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/metrics":
            async with self._lock:
                if time.monotonic() - self._refreshed_s >= _LEAST_AGE_S:
                    await self._refresh()
                    self._refreshed_s = time.monotonic()
        await self._app(scope, receive, send)

    @abstractmethod
    def show(self, values: dict[str, Any]) -> None:
        """Puts one worker's answer into the metrics."""

    def add_counter(self, name: str, text: str, *labels: str) -> None:
        """A counter with these labels, after that of the model's name."""
        from prometheus_client import Counter

        self._counters[name] = Counter(self.prefix + name, text, ["model_name", *labels])

    def count(self, name: str, total: float, *labels: str) -> None:
        """The engine tells totals, Prometheus wants increments."""
        key = (name, *labels)
        increment = total - self._counted.get(key, 0.0)
        self._counters[name].labels(self.model_name, *labels).inc(max(increment, 0.0))
        self._counted[key] = total

    async def _refresh(self) -> None:
        try:
            answers = await asyncio.wait_for(self._client.collective_rpc(self.rpc), _ANSWER_S)
        except Exception as error:  # a dead or busy engine must not take /metrics with it
            logger.warning("ascend_ext: %s on /metrics is old: %r", self.subject, error)
            self._counters["refresh_failures"].labels(self.model_name).inc()
            return
        for values in filter(None, answers):
            self.show(values)
