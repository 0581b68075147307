# SPDX-License-Identifier: Apache-2.0
"""Shows MTP output on a server's /metrics: accepted drafts by position, and how frames reach their readers.

The rank of each replica that sends answers, and a server shows the sums over its replicas. Rings on the server's
own host are looked at in shared memory, those of all its replicas.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from vllm_ascend_ext.config import MtpOutputConfig
from vllm_ascend_ext.integration.ranks.place import local_replicas
from vllm_ascend_ext.integration.upstream.metric_set import MetricSet
from vllm_ascend_ext.mtp_output.ring.watch import ring_level

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
_SEEN = {"ring_occupancy": "occupancy", "ring_capacity": "capacity", "blocked_seconds": "blocked_s"}


class MtpOutputMetrics(MetricSet):
    """Shows the counters, accepted drafts by position, and how full the ring is."""

    prefix = PREFIX

    def __init__(self, model_name: str) -> None:
        super().__init__(model_name)
        self._answers: dict[int, dict[str, Any]] = {}
        for name, text in _COUNTERS.items():
            self.add("counter", name, text)
        for name, text in _BY_POSITION.items():
            self.add("counter", name, text, "position")
        for name, text in _GAUGES.items():
            self.add("gauge", name, text)

    def show(self, values: dict[str, Any]) -> None:
        """Shows the sums over the replicas, of which `values` is one's newest answer."""
        self._answers[values["replica"]] = values
        answers = self._answers.values()
        for name in (*_COUNTERS, *_GAUGES):
            self.put(name, sum(answer[name] for answer in answers))
        for name in _BY_POSITION:
            for position, counts in enumerate(zip_longest(*(answer[name] for answer in answers), fillvalue=0)):
                self.put(name, sum(counts), str(position))

    def look(self, vllm_config: Any, section: MtpOutputConfig) -> None:
        """Shows how full the rings are, and how long their writers have waited: a writer that is blocked answers
        nobody. Those of this host are looked at, and those of other hosts are as their ranks told last."""
        replicas = local_replicas(vllm_config.parallel_config)
        levels = {
            replica: level for replica in replicas if (level := ring_level(section.instance, replica)) is not None
        }
        others = [answer for replica, answer in self._answers.items() if replica not in levels]
        if levels:
            for name, seen in _SEEN.items():
                here = sum(getattr(level, seen) for level in levels.values())
                self.put(name, here + sum(answer[name] for answer in others))
