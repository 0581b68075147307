# SPDX-License-Identifier: Apache-2.0
"""Describes what a model runner tells the features about its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vllm_ascend_ext.runner.step import StepFacts


class StepObserver(Protocol):
    """Follows the passes of a runner. All its methods are called on the runner's thread."""

    def begin_forward(self, facts: StepFacts) -> None:
        """Notes that the target model is about to run."""
        ...

    def begin_draft(self, facts: StepFacts) -> None:
        """Notes that the draft model is about to run one of its passes."""
        ...

    def begin_drafts(self, passes: Sequence[StepFacts]) -> None:
        """Notes that the draft model is about to run all its passes of a step, of which no more is told."""
        ...

    def end_step(self) -> None:
        """Notes that all passes of a step have been launched."""
        ...


class RunnerOutputs(Protocol):
    """Takes what a runner samples to the host, in place of the runner's own copies."""

    def begin_step(self, scheduler_output: Any) -> None:
        """Notes that the step decided on by the scheduler begins."""
        ...

    def sampled(self, sampler_output: Any, spec_decode_metadata: Any) -> None:
        """Takes what the step has sampled, on the device."""
        ...

    def on_host(self, sampler_output: Any) -> Any:
        """Returns the sampled tokens in memory of the host, for the runner's bookkeeping."""
        ...

    def nothing_sampled(self) -> None:
        """Notes that the step ends without a sample on this rank."""
        ...
