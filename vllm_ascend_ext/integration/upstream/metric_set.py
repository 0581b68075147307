# SPDX-License-Identifier: Apache-2.0
"""Keeps the metrics of one feature for the /metrics of one API server.

prometheus_client's own counters live in files that all API servers of an engine share, where each would add what
the others have added: every server asks the engine for totals, so each shows these from its own memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal


class ShownMetric:
    """Shows the newest values of one metric, as a collector of prometheus_client; registers itself there.

    Attributes:
        name: name under which Prometheus sees the metric.
        kind: "counter" or "gauge".
        labels: names of its labels.
        text: its meaning.
    """

    def __init__(self, kind: Literal["counter", "gauge"], name: str, text: str, labels: Sequence[str]) -> None:
        from prometheus_client import REGISTRY

        self.name = name + ("_total" if kind == "counter" else "")
        self.kind, self.labels, self.text = kind, tuple(labels), text
        self._values: dict[tuple[str, ...], float] = {}
        REGISTRY.register(self)

    def show(self, value: float, *labels: str) -> None:
        """Shows `value`, a total of a counter, from now on."""
        self._values[labels] = value

    def describe(self) -> Iterator[Any]:
        """Yields the metric without values, for the registry."""
        yield self._family()

    def collect(self) -> Iterator[Any]:
        """Yields the metric with its values."""
        family = self._family()
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family

    def _family(self) -> Any:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        family = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return family(self.name, self.text, labels=self.labels)


class MetricSet(ABC):
    """Shows a feature's values, which its workers tell as totals.

    prefix: beginning of the metrics' names, "vllm:ascend_ext_<feature>_".

    Args:
        model_name: name of the served model, which is the first label of every metric.

    Attributes:
        metrics: the metrics by their names without the prefix.
    """

    prefix: ClassVar[str]

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.metrics: dict[str, ShownMetric] = {}

    @abstractmethod
    def show(self, values: dict[str, Any]) -> None:
        """Shows one worker's answer (`BoundFeature.metric_values`)."""

    def look(self, vllm_config: Any, section: Any) -> None:
        """Shows what can be seen from this process without asking the engine, whatever keeps the engine busy.

        Args:
            vllm_config: vLLM's configuration.
            section: the feature's section of ours.
        """
        return None

    def add(self, kind: Literal["counter", "gauge"], name: str, text: str, *labels: str) -> None:
        """Makes a metric whose labels are the model's name and these."""
        self.metrics[name] = ShownMetric(kind, self.prefix + name, text, ["model_name", *labels])

    def put(self, name: str, value: float, *labels: str) -> None:
        """Shows `value`, a total of a counter."""
        self.metrics[name].show(value, self.model_name, *labels)
