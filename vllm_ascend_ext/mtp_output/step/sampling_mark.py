# SPDX-License-Identifier: Apache-2.0
"""Marks the end of a step's sampling on a rank that is sent the step's tokens instead of copying them.

Under synchronous scheduling vLLM waits for its copy of the tokens, and takes the device to be done with all that
was queued before the sampling: it then writes to the pinned memory that the step's inputs were copied from. Tokens
that come from another rank say nothing about this rank's device.
"""

from __future__ import annotations

from vllm_ascend_ext.device import Device


class SamplingMark:
    """Marks one step at a time.

    Args:
        device: the rank's device.
        deadline_s: longest time that `wait` may take, in seconds.
    """

    def __init__(self, device: Device, deadline_s: float) -> None:
        self._event, self._deadline_s = device.event(), deadline_s

    def record(self) -> None:
        """Marks the present end of the main stream, which has sampled."""
        self._event.record()

    def wait(self) -> None:
        """Blocks until the device has passed the mark.

        Raises:
            DeadlineError: it has not in time.
        """
        self._event.synchronize(self._deadline_s)
