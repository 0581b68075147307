# SPDX-License-Identifier: Apache-2.0
"""Adds commitments to vLLM's schedulers, which hold new requests back while a commitment is in force.

A commitment is about a pass, and not every schedule becomes a pass: when nothing is scheduled vLLM runs no pass,
or a dummy pass later if other replicas are at work. So the scheduler is told of the engine core's dummies too.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

from vllm_ascend_ext.dp_gather.commitment import Admission, Commitment, commit
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.integration.dp_gather.counts.ahead import attach
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows.row_counts import DUMMY_BATCH

_execute_dummy_batch = EngineCore.execute_dummy_batch


class _Committing:
    """Adds commitments to a scheduler of vLLM, as a mixin in front of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        change.replace(DUMMY_BATCH, execute_dummy_batch)
        self._admission = Admission()
        parallel = self.vllm_config.parallel_config
        # under that launcher a worker runs a dummy by itself when nothing was scheduled
        self._always_a_pass = parallel.distributed_executor_backend == "external_launcher"

    def schedule(self) -> Any:
        """Schedules a step, and admits no new request while a commitment is in force.

        New requests are held back by vLLM's own paused state, so that requests preempted meanwhile wait too. The
        result carries the commitment about the next pass.
        """
        paused = self._pause_state
        if self._admission.holds and paused == PauseState.UNPAUSED:
            self._pause_state = PauseState.PAUSED_NEW
        try:
            output = super().schedule()  # type: ignore[misc]
        finally:
            self._pause_state = paused
        if output.total_num_scheduled_tokens or self._always_a_pass:
            attach(output, self.decide_pass())
        return output

    def decide_pass(self) -> Commitment:
        """Returns the commitment that the pass about to run, real or dummy, is to carry."""
        num_waiting = len(self.waiting) + len(self.skipped_waiting) - self.num_waiting_for_streaming_input
        commitment = commit(
            num_waiting=num_waiting,
            all_decode=not any(request.is_prefill_chunk for request in self.running),
            num_running=len(self.running),
            decode_rows=decode_tokens(self.num_spec_tokens),
            row_limit=self.max_num_scheduled_tokens,
        )
        self._admission.pass_decided(commitment)
        return commitment

    # attributes of vLLM's scheduler that the mixin reads
    vllm_config: Any
    waiting: Any
    skipped_waiting: Any
    num_waiting_for_streaming_input: int
    running: list[Any]
    num_spec_tokens: int
    max_num_scheduled_tokens: int
    _pause_state: PauseState


class CommittingScheduler(_Committing, Scheduler):  # type: ignore[misc]
    """Schedules synchronously, with commitments."""


class CommittingAsyncScheduler(_Committing, AsyncScheduler):  # type: ignore[misc]
    """Schedules asynchronously, with commitments: a step is decided before it is known who stopped in the last."""


def execute_dummy_batch(self: Any) -> None:
    """Replaces vLLM's `EngineCore.execute_dummy_batch`, so that a dummy carries a commitment as any pass."""
    if not isinstance(self.scheduler, _Committing):
        _execute_dummy_batch(self)
        return
    commitment = self.scheduler.decide_pass()
    arguments = (commitment.max_rows, commitment.max_draft_rows)
    self.model_executor.collective_rpc("execute_dummy_batch", args=arguments)
