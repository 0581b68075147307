# SPDX-License-Identifier: Apache-2.0
"""Says what a feature is to the worker, the report, /metrics, `doctor` and the docs, which all go through
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
    """Is a feature at work in one worker. What a feature has no use for is left as it is here."""

    def report(self) -> dict[str, Any]:
        """Returns what this rank counted and sent since the last `reset`, as plain JSON-serialisable values."""
        ...

    def reset(self) -> None:
        """Forgets what was counted."""
        return None

    def metric_values(self) -> dict[str, Any] | None:
        """Returns what the feature's `MetricSet` shows, without waiting; None on ranks that do not answer."""
        return None

    def close(self) -> None:
        """Ends what `Feature.bind` started."""
        return None


class Feature(Protocol):
    """Is one feature, on its way from the configuration to a worker. Holds no state. What a feature has no use for
    is left as it is here.

    name: its configuration key, and its word everywhere else.
    summary: what it does, in a sentence, for `doctor` and the docs.
    rules: what it cannot work with, for the refusals at start-up and the docs.
    metric_set: what it shows on /metrics, None for nothing.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rules: ClassVar[Sequence[Rule]]
    metric_set: ClassVar[type[MetricSet] | None] = None

    def configure(self, deployment: Deployment) -> None:
        """Changes vLLM's configuration where the feature needs it, once nothing is refused."""
        return None

    def before_load(self, config: Any, stack: Stack) -> AbstractContextManager[None]:
        """Returns what has to be in place while a runner is built and its models load.

        config: the feature's section.
        """
        return nullcontext()

    def bind(self, worker: Any, config: Any, stack: Stack) -> BoundFeature:
        """Puts the feature to work in a worker whose models are loaded. Every rank calls it.

        Raises StartupError when that turns out impossible.
        """
        ...
