# SPDX-License-Identifier: Apache-2.0
"""Makes MTP output a feature of the registry."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.config import MtpOutputConfig
from vllm_ascend_ext.integration.feature import BoundFeature, Feature
from vllm_ascend_ext.integration.mtp_output import limits
from vllm_ascend_ext.integration.mtp_output.bind import attach, report_of
from vllm_ascend_ext.integration.mtp_output.metrics import MtpOutputMetrics
from vllm_ascend_ext.integration.ranks.place import rank_place
from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.mtp_output.step.pipeline import StepPipeline


class MtpOutputFeature(Feature):
    """Takes each step's accepted tokens out of a replica once, on one rank."""

    name = "mtp_output"
    summary = "copies a step's accepted tokens to the host once, on one rank, and sends them to readers as frames"
    rules = limits.RULES
    metric_set = MtpOutputMetrics

    def prepare_engine(self) -> None:
        """Has the scheduler refuse what takes tokens back."""
        from vllm_ascend_ext.integration.mtp_output import resets

        resets.refuse_in_mid_step()

    def bind(self, worker: Any, config: MtpOutputConfig, stack: Stack) -> BoundOutput:
        """Makes the worker's runner give its output to us."""
        replica = rank_place(worker.vllm_config.parallel_config).replica
        return BoundOutput(attach(worker, config), replica)


class BoundOutput(BoundFeature):
    """Holds the output pipeline of one worker of a replica."""

    def __init__(self, outputs: StepPipeline, replica: int) -> None:
        self.outputs, self.replica = outputs, replica

    def report(self) -> dict[str, Any]:
        """Returns what this rank copied, received and sent."""
        return report_of(self.outputs)

    def reset(self) -> None:
        """Forgets nothing: readers see the whole run."""

    def metric_values(self) -> dict[str, Any] | None:
        """Returns the values for /metrics, or None on ranks that do not send."""
        document = self.report()
        return document | {"replica": self.replica} if "frames" in document else None

    def close(self) -> None:
        """Closes the ring or socket, after the last frames."""
        self.outputs.close()
