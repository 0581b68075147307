# SPDX-License-Identifier: Apache-2.0
"""MTP output on /metrics: what the sending worker answers becomes counters and gauges."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

prometheus_client = pytest.importorskip("prometheus_client")

from vllm_ascend_ext.integration.mtp_output import metrics as output_metrics  # noqa: E402
from vllm_ascend_ext.integration.server import metrics as server_metrics  # noqa: E402


class Engine:
    """Two replicas of two workers, of which the second one sends."""

    def __init__(self) -> None:
        self.total = 0

    async def collective_rpc(self, method: str) -> list[Any]:
        assert method == "ascend_ext_metrics"
        self.total += 10
        names = (*output_metrics._COUNTERS, *output_metrics._GAUGES)
        drafts = {"drafts": [self.total, 4], "accepted_drafts": [3, 1]}
        sent = {**dict.fromkeys(names, self.total), **drafts, "received": 1}
        idle = {**dict.fromkeys(names, 1), "drafts": [1], "accepted_drafts": [1]}
        return [{}, {"mtp_output": sent | {"replica": 0}}, {}, {"mtp_output": idle | {"replica": 1}}]


def test_counters_by_position_and_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    def value(name: str, **labels: str) -> float | None:
        return prometheus_client.REGISTRY.get_sample_value(
            f"vllm:ascend_ext_mtp_output_{name}", {"model_name": "tiny", **labels}
        )

    monkeypatch.setattr(server_metrics, "_LEAST_AGE_S", 0.0)
    before = set(prometheus_client.REGISTRY._collector_to_names)
    middleware = server_metrics.MetricsRefresh(
        app, Engine(), {"mtp_output": output_metrics.MtpOutputMetrics("tiny")}, "tiny"
    )
    try:
        for total in (10, 20):
            asyncio.run(middleware({"type": "http", "path": "/metrics"}, None, None))
            assert value("frames_total") == value("blocked_seconds_total") == value("ring_occupancy") == total + 1
            assert value("drafts_total", position="0") == total + 1
        assert value("drafts_total", position="1") == 4
        assert value("accepted_drafts_total", position="0") == 4
        assert value("accepted_drafts_total", position="1") == 1
    finally:
        for collector in set(prometheus_client.REGISTRY._collector_to_names) - before:
            prometheus_client.REGISTRY.unregister(collector)
