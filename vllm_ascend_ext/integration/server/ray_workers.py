# SPDX-License-Identifier: Apache-2.0
"""Lets workers that are Ray's actors free what they hold (rings, shared memory) before Ray kills them."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.server.launcher import GRACE_S
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams

logger = logging.getLogger(__name__)

_asked: weakref.WeakSet[Any] = weakref.WeakSet()


@functools.cache  # once a process
def end_workers_first() -> None:
    """Has this process's Ray executor ask its workers to end before it ends; vLLM has Ray kill them at once."""
    change.wrap(seams.RAY_SHUTDOWN, None, _asking_workers)


def _asking_workers(shut_down: Callable[[Any], None]) -> Callable[[Any], None]:
    def ask_and_shut_down(executor: Any) -> None:
        if executor not in _asked and getattr(executor, "response_mqs", None):  # vLLM calls it twice
            _asked.add(executor)
            try:
                executor.collective_rpc("shutdown", timeout=GRACE_S)
            except Exception as error:  # of a worker that is dead or stuck, which Ray then kills
                logger.warning("ascend_ext: workers did not end when asked: %r", error)
        shut_down(executor)

    return ask_and_shut_down
