# SPDX-License-Identifier: Apache-2.0
"""Describes a feature as the worker, the report, /metrics, `doctor` and the docs see it, through
`registry.FEATURES`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.upstream.metric_set import MetricSet
from vllm_ascend_ext.integration.upstream.stack import Stack


class BoundFeature(Protocol):
    """Describes a feature at work in one worker. A feature overrides only the methods that it needs."""

    def report(self) -> dict[str, Any]:
        """Returns what this rank counted and sent since the last `reset`, as plain JSON-serialisable values."""
        ...

    def reset(self) -> None:
        """Forgets what was counted."""
        return None

    def metric_values(self) -> dict[str, Any] | None:
        """Returns the values for the feature's `MetricSet`, without waiting; None on ranks that do not answer."""
        return None

    def close(self) -> None:
        """Ends the threads and other resources that `Feature.bind` started."""
        return None


class Feature(Protocol):
    """Describes one feature, from its configuration to the worker, without state. A feature overrides only the
    methods that it needs.

    Attributes:
        name: configuration key of the feature, and its word everywhere else.
        summary: sentence that tells what the feature does, for `doctor` and the docs.
        rules: settings that the feature cannot work with, for the refusals at start-up and the docs.
        metric_set: metrics that the feature shows on /metrics; None for none.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rules: ClassVar[Sequence[Rule]]
    metric_set: ClassVar[type[MetricSet] | None] = None

    def configure(self, deployment: Deployment) -> None:
        """Changes vLLM's configuration where the feature needs that, after all checks have passed."""
        return None

    def prepare_engine(self) -> None:
        """Changes what vLLM's engine core does, in every process that may run one; called more than once."""
        return None

    def before_load(self, config: Any, stack: Stack) -> AbstractContextManager[None]:
        """Returns the context in which a runner is built and its models load.

        Args:
            config: the feature's section of the configuration.
            stack: the stack of the worker's device.
        """
        return nullcontext()

    def bind(self, worker: Any, config: Any, stack: Stack) -> BoundFeature:
        """Puts the feature to work in a worker whose models are loaded. Every rank calls this method.

        Args:
            worker: the worker, an `ExtWorker`.
            config: the feature's section of the configuration.
            stack: the stack of the worker's device.

        Raises:
            StartupError: the feature cannot work with the loaded models.
        """
        ...
