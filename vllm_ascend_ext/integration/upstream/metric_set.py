# SPDX-License-Identifier: Apache-2.0
"""Keeps the metrics of one feature in the API server's Prometheus registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class MetricSet(ABC):
    """Shows a feature's values, which its workers tell as totals.

    prefix: beginning of the metrics' names, "vllm:ascend_ext_<feature>_".

    Args:
        model_name: name of the served model, which is the first label of every metric.
    """

    prefix: ClassVar[str]

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self._counters: dict[str, Any] = {}
        self._counted: dict[tuple[str, ...], float] = {}

    @abstractmethod
    def show(self, values: dict[str, Any]) -> None:
        """Shows one worker's answer (`BoundFeature.metric_values`)."""

    def add_counter(self, name: str, text: str, *labels: str) -> None:
        """Makes a counter whose labels are the model's name and these."""
        from prometheus_client import Counter

        self._counters[name] = Counter(self.prefix + name, text, ["model_name", *labels])

    def count(self, name: str, total: float, *labels: str) -> None:
        """Raises a counter to `total`: the engine tells totals, Prometheus wants increments."""
        key = (name, *labels)
        increment = total - self._counted.get(key, 0.0)
        self._counters[name].labels(self.model_name, *labels).inc(max(increment, 0.0))
        self._counted[key] = total
