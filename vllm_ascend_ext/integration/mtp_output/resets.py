# SPDX-License-Identifier: Apache-2.0
"""Refuses a reset of the prefix cache that takes tokens back which are on their way.

Under asynchronous scheduling vLLM's `reset_prefix_cache(reset_running_requests=True)` drops what the steps in
flight will bring, and samples it once more. Frames have it already and cannot take it back, so that the engine
would end. The call that asks for it gets an error instead, and the engine goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.errors import MidStepResetError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import mtp_output as seams


@functools.cache  # once a process
def refuse_in_mid_step() -> None:
    """Has the schedulers of this process refuse resets of requests whose tokens are on their way."""
    change.wrap(seams.RESET, None, _refusing)


def _refusing(reset: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(reset)
    def reset_prefix_cache(
        scheduler: Any, reset_running_requests: bool = False, *args: Any, **kwargs: Any
    ) -> bool:
        if reset_running_requests:
            _check(scheduler)
        return reset(scheduler, reset_running_requests, *args, **kwargs)

    return reset_prefix_cache


def _check(scheduler: Any) -> None:
    config = ExtConfig.from_additional_config(scheduler.vllm_config.additional_config or None)
    num_requests = sum(request.num_output_placeholders > 0 for request in scheduler.running)
    if num_requests and config is not None and config.mtp_output.enabled:
        raise MidStepResetError(
            f"reset_running_requests is refused: tokens of {num_requests} requests are on their way, and frames "
            "of ascend_ext.mtp_output cannot take them back; pause generation first (POST /pause?mode=keep, or "
            'pause_generation(mode="keep")), reset, and resume'
        )
