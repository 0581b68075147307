# SPDX-License-Identifier: Apache-2.0
"""Lets workers that are Ray actors free what they hold before vLLM has Ray kill them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from vllm_ascend_ext.integration.server.launcher import GRACE_S
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams

logger = logging.getLogger(__name__)

ACTOR_END_S = 10.0
"""For a worker to free what it holds; then the kernel ends it."""

_END = "end_actor"  # of our workers
_NOBODY = -1  # the rank that answers


def let_workers_end(parallel_config: Any) -> None:
    """Has the executor of this engine core ask its workers to end, and wait for them, where they are Ray actors.

    vLLM has Ray kill them at once, and rings, and vLLM's own queues, stay in /dev/shm of every host.
    """
    if parallel_config.use_ray:
        _wrap_shutdown()


@functools.cache  # once a process
def _wrap_shutdown() -> None:
    change.wrap(seams.RAY_SHUTDOWN, None, _ending_workers)


def _ending_workers(shutdown: Callable[[Any], None]) -> Callable[[Any], None]:
    def end_workers_and_shut_down(executor: Any) -> None:
        with executor.shutdown_lock:
            is_first = not executor.shutting_down
            change.replace(seams.RAY_ENDS, True, executor)
        if is_first:
            try:
                _end_workers(executor)
                executor._join_monitor_thread()  # it takes a worker that ends for one that died
            finally:  # vLLM's own end must come, whatever Ray says
                change.replace(seams.RAY_ENDS, False, executor)
        shutdown(executor)

    return end_workers_and_shut_down


def _end_workers(executor: Any) -> None:
    import ray

    handles = [handle for handle in getattr(executor, "ray_worker_handles", ()) if handle.run_ref]
    if not handles or not ray.is_initialized():
        return
    with contextlib.suppress(TimeoutError):  # of a queue that is full, as its readers are gone
        executor.rpc_broadcast_mq.enqueue((_END, (), {}, _NOBODY), timeout=GRACE_S)
    wait_for_ends({f"worker {handle.rank}": handle.actor for handle in handles}, GRACE_S)


def wait_for_ends(actors: Mapping[str, Any], limit_s: float) -> None:
    """Waits until the processes of vLLM's actors, which are at work or end, have ended; for `limit_s` at most.

    actors: name → actor. The log has the names of those that have not ended.
    """
    import ray

    # no actor answers them any more: they end with its process
    calls = {actor.wait_for_init.remote(): name for name, actor in actors.items()}
    _, waiting = ray.wait(list(calls), num_returns=len(calls), timeout=limit_s)
    if waiting:
        logger.warning(
            "ascend_ext: not ended after %g s, so Ray kills what it reaches, and files may stay in /dev/shm: %s",
            limit_s,
            ", ".join(calls[call] for call in waiting),
        )
