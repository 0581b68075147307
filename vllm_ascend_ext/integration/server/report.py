# SPDX-License-Identifier: Apache-2.0
"""Answers `GET /ascend_ext/report` of a server with the reports of all its ranks, as JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.server.all_workers import ask_all_workers
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows.server import KEY_CHECK
from vllm_ascend_ext.integration.upstream.seams.seam import of_pair
from vllm_ascend_ext.integration.upstream.versions import installed_pair

logger = logging.getLogger(__name__)

REPORT_PATH = "/ascend_ext/report"
NUM_RANKS_HEADER = "Ascend-Ext-Num-Ranks"
"""Header of the answer: how many ranks the deployment has; a server behind another load balancer asks one
replica's only."""

_LEAST_AGE_S = 1.0  # a younger report is given once more, because a new one waits for the device
_ANSWER_S = 10.0


def serve(app: Any) -> None:
    """Adds the route to a server that is about to start, if its engine has our worker.

    The route is one of vLLM's application, so that `--root-path`, CORS and `--middleware` apply. vLLM asks for the
    API key under /v1, /v2 and /inference only. Our route asks for the key, too, because every report costs the
    engine time.
    """
    client = getattr(app.state, "engine_client", None)
    if client is None or ExtConfig.from_additional_config(client.vllm_config.additional_config) is None:
        return
    app.add_route(REPORT_PATH, ReportRoute(client, _key_check(app)).answer, methods=["GET"])


def _key_check(app: Any) -> Callable[[Any], bool]:
    """Returns vLLM's own check of a request's headers; without API keys, one that lets everything pass."""
    middleware = change.present(of_pair(KEY_CHECK, installed_pair()))
    for row in app.user_middleware:
        if row.cls is middleware:
            check: Callable[[Any], bool] = middleware(app, *row.args, **row.kwargs).verify_token
            return check
    return lambda headers: True


class ReportRoute:
    """Asks the engine at most once a second; no request waits longer than a deadline, however many there are.

    Args:
        client: vLLM's engine client.
        has_key: check of a request's headers, true when they bring a valid API key.
    """

    def __init__(self, client: Any, has_key: Callable[[Any], bool]) -> None:
        self._client, self._has_key = client, has_key
        self._lock = asyncio.Lock()
        self._reports: list[Any] = []
        self._asked_s = -_LEAST_AGE_S

    async def answer(self, request: Any) -> Any:
        """Answers one request: 200 with the reports, 401 without the key, 503 when the engine does not answer."""
        from starlette.responses import JSONResponse

        if not self._has_key(request.headers):
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        try:
            reports = await asyncio.wait_for(self._newest(), _ANSWER_S)
        except Exception as error:  # of a dead or stuck engine: the request is answered all the same
            reason = (
                f"no answer within {_ANSWER_S:g} s" if isinstance(error, asyncio.TimeoutError) else repr(error)
            )
            logger.warning("ascend_ext: the engine gave no report: %s", reason)
            return JSONResponse({"error": f"the engine gave no report: {reason}"}, status_code=503)
        num_ranks = self._client.vllm_config.parallel_config.world_size_across_dp
        return JSONResponse(reports, headers={NUM_RANKS_HEADER: str(num_ranks)})

    async def _newest(self) -> list[Any]:
        async with self._lock:
            if time.monotonic() - self._asked_s >= _LEAST_AGE_S:
                self._reports = await ask_all_workers(self._client, "ascend_ext_report")
                self._asked_s = time.monotonic()
            return self._reports
