# SPDX-License-Identifier: Apache-2.0
"""Lets the process that only starts others end as a server of one process does: in good time, with its status.

It is the launcher of several API servers (which vLLM starts by itself with data parallelism), or a headless node.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from vllm_ascend_ext.integration.errors import EngineDiedError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams

_STATUS_S = 5.0  # for the status of a process that has ended
GRACE_S = 15.0
"""For an engine core to end its workers: vLLM's executor waits 4 s, sends SIGTERM, waits 4 s, sends SIGKILL."""


@functools.cache  # once a process
def replace_ends() -> None:
    """Puts our ends of a launcher in place; doing it twice changes nothing."""
    for seam in seams.STOPS:
        change.wrap(seam, None, _giving_time)
    if seams.API_SERVERS_WAIT.module in sys.modules:  # in `vllm serve`; it need not be loaded elsewhere
        change.wrap(seams.API_SERVERS_WAIT, None, _naming_the_ended)
    change.wrap(seams.ENGINE_MONITOR, None, _raising_after_engines)
    change.wrap(seams.WORKER_MONITOR, None, _raising_after_workers)


def _giving_time(stop: Callable[..., None]) -> Callable[..., None]:
    """Gives the processes that are asked to end as long as they may need to free what they hold (rings, shared
    memory); vLLM kills them at once unless `shutdown_timeout` says otherwise."""

    def give_time(procs: list[Any], timeout: float | None = None) -> None:
        stop(procs, max(timeout or 0.0, GRACE_S))

    return give_time


def _naming_the_ended(wait: Callable[..., None]) -> Callable[..., None]:
    """Says in one line which API servers have ended, and how; vLLM asks for a status too early and says None."""

    @functools.wraps(wait)
    def wait_and_name(api_server_manager: Any, *args: Any, **kwargs: Any) -> None:
        try:
            wait(api_server_manager, *args, **kwargs)
        except RuntimeError as error:
            ended = [_end_of(process) for process in api_server_manager.processes if _has_ended(process)]
            raise EngineDiedError(
                f"this server has stopped: {', '.join(ended) or error}; the log above says more"
            ) from error

    return wait_and_name


def _has_ended(process: Any) -> bool:
    return bool(connection.wait([process.sentinel], timeout=0))


def _end_of(process: Any) -> str:
    process.join(_STATUS_S)
    code = process.exitcode
    how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with status {code}"
    return f"{process.name} (PID {process.pid}) has ended {how}"


def _raising_after_engines(watch: Callable[..., None]) -> Callable[..., None]:
    """Raises when an engine core of a headless node has ended unasked, where vLLM returns, with exit status 0.

    An operator's signal is a SystemExit, which passes. A launcher with API servers watches in another thread, and
    has an error of its own.
    """

    def watch_and_raise(manager: Any) -> None:
        watch(manager)
        if threading.current_thread() is threading.main_thread():
            raise _ended()

    return watch_and_raise


def _raising_after_workers(watch: Callable[..., None]) -> Callable[..., None]:
    """Raises when a worker of a headless node, which watches `inline`, has ended unasked, likewise."""

    def watch_and_raise(executor: Any, inline: bool = False) -> None:
        watch(executor, inline)
        if inline and executor.is_failed:
            raise _ended()

    return watch_and_raise


def _ended() -> EngineDiedError:
    return EngineDiedError(
        "this headless node has stopped: a process of its engine has ended, as when the head node has gone; "
        "the cause is in the log above"
    )
