# SPDX-License-Identifier: Apache-2.0
"""The watch on a head node: nothing that comes back in time is gone, and what has ended is.

And the end of a process that hangs while Python takes itself down.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from tests.support.server import free_port
from vllm_ascend_ext.integration.server.head_watch import wait_until_closed, wait_until_gone

PATIENCE_S = 1.5
EXIT = """
import ctypes, signal, sys
from vllm_ascend_ext.integration.server.head_watch import end_in_time

def exit_at_once(*_):
    raise SystemExit

class Group:
    def __del__(self, pause=ctypes.CDLL(None).pause):
        pause()  # as torch waits for a collective: no signal handler of Python runs
        pause()

signal.signal(signal.SIGTERM, exit_at_once)
end_in_time(int(sys.argv[2]))
sys.modules["group"] = Group() if sys.argv[1] == "hangs" else None
signal.raise_signal(signal.SIGTERM)
"""


def _listen(port: int, listens: Any) -> None:
    """Binds what vLLM's client binds for its engine cores."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"tcp://127.0.0.1:{port}")
        listens.set()
        signal.pause()


def _keep_store(port: int, listens: Any) -> None:
    """Listens as the first rank of an engine does, with torch's store."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    listens.set()
    signal.pause()
    del store


def _started(listen: Callable[[int, Any], None], port: int) -> Any:
    """Returns a process that listens at the port."""
    context = multiprocessing.get_context("spawn")
    listens = context.Event()
    head = context.Process(target=listen, args=(port, listens), daemon=True)
    head.start()
    assert listens.wait(60)
    return head


def _outlives_a_pause(head: Any, watch: threading.Thread) -> None:
    """Stops a head, which is only slow then, and lets it go on."""
    for number in (signal.SIGSTOP, signal.SIGCONT):
        os.kill(head.pid, number)
        watch.join(2 * PATIENCE_S)
        assert watch.is_alive()


def test_only_a_head_that_has_ended_is_gone() -> None:
    port = free_port()
    watch = threading.Thread(target=wait_until_gone, args=(f"tcp://127.0.0.1:{port}", PATIENCE_S), daemon=True)
    head = _started(_listen, port)
    watch.start()
    time.sleep(0.5)  # its connection is there
    _outlives_a_pause(head, watch)
    head.kill()
    started = time.monotonic()
    watch.join(10 * PATIENCE_S)
    assert not watch.is_alive() and time.monotonic() - started >= 0.9 * PATIENCE_S


def test_a_head_that_never_answers_is_gone() -> None:
    port = free_port()
    wait_until_gone(f"tcp://127.0.0.1:{port}", 0.5)


def test_a_first_rank_that_has_ended_is_gone() -> None:
    """Nobody is there at first, and the connection, over which nothing is said, outlives a pause."""
    port = free_port()
    watch = threading.Thread(target=wait_until_closed, args=("127.0.0.1", port, PATIENCE_S), daemon=True)
    watch.start()
    watch.join(2 * PATIENCE_S)
    assert watch.is_alive()
    rank = _started(_keep_store, port)
    _outlives_a_pause(rank, watch)
    rank.kill()
    watch.join(10 * PATIENCE_S)
    assert not watch.is_alive()


def _status(how: str, limit_s: int) -> int:
    return subprocess.run([sys.executable, "-c", EXIT, how, str(limit_s)], timeout=120).returncode


def test_an_exit_that_hangs_is_ended() -> None:
    assert _status("hangs", 3) == -signal.SIGALRM


def test_an_exit_that_does_not_hang_is_left_alone() -> None:
    assert _status("ends", 60) == 0
