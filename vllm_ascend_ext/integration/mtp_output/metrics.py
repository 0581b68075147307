# SPDX-License-Identifier: Apache-2.0
"""Shows MTP output on a server's /metrics: accepted drafts by position, and how frames reach their readers.

The rank that sends answers. Of several replicas behind one API server, vLLM's client passes on the first answer.
"""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.upstream.metric_set import MetricSet

PREFIX = "vllm:ascend_ext_mtp_output_"

_COUNTERS = {
    "tokens": "Tokens accepted.",
    "copies": "Copies of a step's output to the host.",
    "frames": "Frames sent.",
    "frame_bytes": "Bytes of the frames sent.",
    "frame_seconds": "Seconds from sampling to being in the channel, over all frames.",
    "blocked_seconds": "Seconds that steps waited for a reader to make room.",
}
_BY_POSITION = {"drafts": "Drafts verified.", "accepted_drafts": "Drafts accepted."}
_GAUGES = {
    "ring_occupancy": "Frames that no reader has acknowledged.",
    "ring_capacity": "Frames that may wait for their reader.",
}


class MtpOutputMetrics(MetricSet):
    """Shows the counters, accepted drafts by position, and how full the ring is."""

    prefix = PREFIX

    def __init__(self, model_name: str) -> None:
        from prometheus_client import Gauge

        super().__init__(model_name)
        for name, text in _COUNTERS.items():
            self.add_counter(name, text)
        for name, text in _BY_POSITION.items():
            self.add_counter(name, text, "position")
        self._gauges = {
            name: Gauge(PREFIX + name, text, ["model_name"], multiprocess_mode="mostrecent")
            for name, text in _GAUGES.items()
        }

    def show(self, values: dict[str, Any]) -> None:
        """Shows one rank's answer."""
        for name in _COUNTERS:
            self.count(name, values[name])
        for name in _BY_POSITION:
            for position, count in enumerate(values[name]):
                self.count(name, count, str(position))
        for name, gauge in self._gauges.items():
            gauge.labels(self.model_name).set(values[name])
