# SPDX-License-Identifier: Apache-2.0
"""Ends engine cores that are Ray actors (`--data-parallel-backend ray`) in good time, with a status that tells.

vLLM has Ray kill them at once, with their workers, whose rings stay in /dev/shm of every host. And vLLM's launcher
takes no note of an engine core that ends with an error: its servers stay and answer nobody.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.server.launcher import GRACE_S
from vllm_ascend_ext.integration.server.ray_workers import ACTOR_END_S, wait_for_ends
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams

logger = logging.getLogger(__name__)


@functools.cache  # once a process
def replace_ends() -> None:
    """Puts our ends of engine cores that are actors in place; doing it twice changes nothing."""
    change.wrap(seams.ACTOR_MONITOR, None, _noticing_errors)
    change.wrap(seams.ACTORS_SHUTDOWN, None, _asking_first)


def _noticing_errors(watch: Callable[[Any], None]) -> Callable[[Any], None]:
    """Has the launcher end the servers after an engine core has ended with an error, as it does after a death."""

    def watch_and_end(manager: Any) -> None:
        import ray

        try:
            watch(manager)
        except ray.exceptions.RayTaskError as error:
            logger.error("ascend_ext: an engine core, which is a Ray actor, has failed: %s", error.cause)
            change.replace(seams.ACTOR_FAILED, "of a Ray actor", manager)
            manager.shutdown()

    return watch_and_end


def _asking_first(shutdown: Callable[..., None]) -> Callable[..., None]:
    """Asks engine cores to end, and gives them as long as they may need to end their workers, before Ray kills."""

    def ask_and_shut_down(manager: Any, timeout: float | None = None) -> None:
        manager.manager_stopped.set()
        try:
            _end(manager.actor_run_ref_dict, max(timeout or 0.0, GRACE_S + ACTOR_END_S))
        finally:  # vLLM's own end must come, whatever Ray says
            shutdown(manager, timeout)

    return ask_and_shut_down


def _end(run_refs: dict[Any, Any], limit_s: float) -> None:
    """Sends SIGTERM to the actors that still run, each on its own host, and waits for them.

    run_refs: actor → its call that ends when the engine core has ended. An actor that is at work hears no other
    call.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not run_refs or not ray.is_initialized():
        return
    _, running = ray.wait(list(run_refs.values()), num_returns=len(run_refs), timeout=0)
    task = ray.remote(num_cpus=0, max_retries=0)(_terminate)
    ending = {f"engine core {i}": actor for i, (actor, ref) in enumerate(run_refs.items()) if ref in running}
    for actor in ending.values():
        known = ray._private.state.actors(actor._actor_id.hex())
        there = NodeAffinitySchedulingStrategy(known["Address"]["NodeID"], soft=False)
        task.options(scheduling_strategy=there).remote(known["Pid"])
    if ending:
        wait_for_ends(ending, limit_s)


def _terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
