# SPDX-License-Identifier: Apache-2.0
"""vLLM's schedulers, committing to the next pass with each and holding new requests back while one is in force.

A commitment is about a pass, and not every schedule is one: without rows vLLM runs none, but a dummy afterwards if
other replicas are at work. So the engine core's dummies are told to the scheduler too.
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
    """Mixin in front of a scheduler of vLLM."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        change.replace(DUMMY_BATCH, execute_dummy_batch)
        self._admission = Admission()
        parallel = self.vllm_config.parallel_config
        # there a worker runs a dummy by itself when nothing was scheduled
        self._always_a_pass = parallel.distributed_executor_backend == "external_launcher"

    def schedule(self) -> Any:
        """Admits nobody while a commitment is in force, by vLLM's own state for that: requests that are preempted
        meanwhile wait with the others. The result carries what is committed to about the next pass."""
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
        """A pass is about to run, real or dummy: what it carries."""
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
    """For synchronous scheduling."""


class CommittingAsyncScheduler(_Committing, AsyncScheduler):  # type: ignore[misc]
    """For asynchronous scheduling: a step is decided before the one before it has told who stopped."""


def execute_dummy_batch(self: Any) -> None:
    """vLLM's, whose dummy carries a commitment as every pass."""
    if not isinstance(self.scheduler, _Committing):
        _execute_dummy_batch(self)
        return
    commitment = self.scheduler.decide_pass()
    arguments = (commitment.max_rows, commitment.max_draft_rows)
    self.model_executor.collective_rpc("execute_dummy_batch", args=arguments)
