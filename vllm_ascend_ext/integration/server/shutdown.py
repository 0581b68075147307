# SPDX-License-Identifier: Apache-2.0
"""Mends what vLLM leaves when one of its processes dies: orphans, and an exit status that hides the death.

vLLM itself notices a dead worker and a dead engine core, ends the others and answers open requests with an
error. Only engines with an `ascend_ext` configuration are changed.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import sys
import threading
from typing import Any

from vllm_ascend_ext.config import KEY
from vllm_ascend_ext.integration.errors import EngineDiedError
from vllm_ascend_ext.integration.server import head_watch, ray_workers, replica_states
from vllm_ascend_ext.integration.server.head_watch import end_in_time, end_this_process
from vllm_ascend_ext.integration.server.launcher import GRACE_S
from vllm_ascend_ext.integration.upstream.engine_process import arguments_of_this_process
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.change import Change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams
from vllm_ascend_ext.integration.upstream.seams.seam import of_pair
from vllm_ascend_ext.integration.upstream.versions import installed_pair

logger = logging.getLogger(__name__)

_WATCH = "AscendExtParentWatch"


def end_with_parent() -> None:
    """Makes an engine core or a worker end when the process that started it has ended, in whatever way.

    vLLM's workers watch the engine core, but the engine core does not watch the API server, so that a killed
    API server leaves engine core and workers behind, and with them the device's memory
    (https://github.com/vllm-project/vllm/issues/55510; obsolete with
    https://github.com/vllm-project/vllm/pull/55846). Nor does a worker that is stuck in a collective end.

    Does nothing in other processes, and nothing when called again. Under the start method `fork` vLLM does
    not run its plug-ins again in the child. The command line of vLLM always spawns.
    """
    parent = multiprocessing.parent_process()
    arguments = arguments_of_this_process()
    vllm_config: Any = arguments.get("vllm_config")
    if parent is None or KEY not in (getattr(vllm_config, "additional_config", None) or {}):
        return
    if any(thread.name == _WATCH for thread in threading.enumerate()):
        return
    threading.Thread(target=_end_after, args=(parent,), name=_WATCH, daemon=True).start()
    if arguments.get("local_client") is False:  # an engine core of a headless node
        head_watch.watch_head()
    parallel = vllm_config.parallel_config
    if "local_client" in arguments:  # an engine core
        prepare_engine_core(parallel)
    else:
        end_in_time(int(GRACE_S))
    if parallel.node_rank_within_dp > 0:  # a worker of a headless node
        head_watch.watch_first_rank(parallel)


def prepare_engine_core(parallel_config: Any) -> None:
    """Bounds what this engine core waits for, at work and at its end."""
    end_in_time(int(GRACE_S))
    replica_states.bound_wait(parallel_config)
    ray_workers.let_workers_end(parallel_config)


def _end_after(parent: Any) -> None:
    """Waits for the parent to end, then ends this process."""
    parent.join()
    logger.warning(
        "ascend_ext: parent process %d (%s) has ended; ending %s",
        parent.pid,
        parent.name,
        multiprocessing.current_process().name,
    )
    end_this_process()


def replace_serve_http() -> None:
    """Puts our `serve_http` in its place; does nothing where vLLM's API server is not loaded."""
    seam = of_pair(seams.SERVE_HTTP, installed_pair())
    if seam.module in sys.modules:
        change.replace(seam, serve_http)


async def serve_http(app: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs vLLM's `serve_http` with our routes, and raises EngineDiedError when the engine has died.

    vLLM's function returns in the same way when an operator stops the server and when the engine has died. The
    client calls itself dead after both, but only an operator's signal goes through the client's `shutdown`, where
    we take note of the signal and mend two things:

    * vLLM cancels the task that answers open requests, and then waits for their connections for ever. Here these
      requests get the error of a dead engine (https://github.com/vllm-project/vllm/pull/36964).
    * vLLM gives the engine core no time unless `shutdown_timeout` does, and kills the workers while they free what
      they hold (rings, shared memory). Here the engine core may take as long as it gives its workers.
    """
    theirs = change.present(of_pair(seams.SERVE_HTTP_ITSELF, installed_pair()))

    from vllm_ascend_ext.integration.server import metrics as server_metrics
    from vllm_ascend_ext.integration.server import report as server_report

    server_metrics.serve(app)
    server_report.serve(app)
    client = getattr(app.state, "engine_client", None)
    if client is None:  # a server without an engine
        return await theirs(app, *args, **kwargs)
    asked_to_stop = False
    shutdown = client.shutdown
    loop = asyncio.get_running_loop()

    def note_and_shut_down(timeout: float | None = None) -> None:  # vLLM calls it in another thread
        nonlocal asked_to_stop
        asked_to_stop = True
        loop.call_soon_threadsafe(client.output_processor.propagate_error, client.dead_error)
        shutdown(timeout=max(timeout or 0.0, GRACE_S))

    with change.temporarily([Change(seams.SHUTDOWN, note_and_shut_down, client)]):
        ended = await theirs(app, *args, **kwargs)
    if client.errored and not asked_to_stop:
        ended.close()  # a coroutine that nobody will await
        raise EngineDiedError("the engine died and the server has stopped; the cause is in the log above")
    return ended
