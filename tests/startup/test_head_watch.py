# SPDX-License-Identifier: Apache-2.0
"""The watch on a head node: nothing that comes back in time is gone, and what has ended is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from typing import Any

import zmq

from vllm_ascend_ext.integration.server.head_watch import wait_until_closed, wait_until_gone

PATIENCE_S = 1.5


def _listen(port: int, listens: Any) -> None:
    """Binds what vLLM's client binds for its engine cores."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"tcp://127.0.0.1:{port}")
        listens.set()
        signal.pause()


def _head(port: int) -> Any:
    context = multiprocessing.get_context("spawn")
    listens = context.Event()
    head = context.Process(target=_listen, args=(port, listens), daemon=True)
    head.start()
    assert listens.wait(60)
    return head


def test_only_a_head_that_has_ended_is_gone() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    watch = threading.Thread(target=wait_until_gone, args=(f"tcp://127.0.0.1:{port}", PATIENCE_S), daemon=True)
    head = _head(port)
    watch.start()
    time.sleep(0.5)  # its connection is there
    os.kill(head.pid, signal.SIGSTOP)  # a head that is only slow
    watch.join(2 * PATIENCE_S)
    assert watch.is_alive()
    os.kill(head.pid, signal.SIGCONT)
    watch.join(2 * PATIENCE_S)
    assert watch.is_alive()
    head.kill()
    started = time.monotonic()
    watch.join(10 * PATIENCE_S)
    assert not watch.is_alive() and time.monotonic() - started >= 0.9 * PATIENCE_S


def test_a_head_that_never_answers_is_gone() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wait_until_gone(f"tcp://127.0.0.1:{port}", 0.5)


def _keep_store(port: int, listens: Any) -> None:
    """Listens as the first rank of an engine does, with torch's store."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    listens.set()
    signal.pause()
    del store


def test_a_first_rank_that_has_ended_is_gone() -> None:
    """Nobody is there at first, and the connection, over which nothing is said, outlives a pause."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    watch = threading.Thread(target=wait_until_closed, args=("127.0.0.1", port, PATIENCE_S), daemon=True)
    watch.start()
    watch.join(2 * PATIENCE_S)
    assert watch.is_alive()
    context = multiprocessing.get_context("spawn")
    listens = context.Event()
    rank = context.Process(target=_keep_store, args=(port, listens), daemon=True)
    rank.start()
    assert listens.wait(60)
    os.kill(rank.pid, signal.SIGSTOP)
    watch.join(2 * PATIENCE_S)
    assert watch.is_alive()
    os.kill(rank.pid, signal.SIGCONT)
    watch.join(2 * PATIENCE_S)
    assert watch.is_alive()
    rank.kill()
    watch.join(10 * PATIENCE_S)
    assert not watch.is_alive()
