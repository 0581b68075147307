# SPDX-License-Identifier: Apache-2.0
"""Ends what a headless node runs when the head node has gone, also while it has nothing to do.

vLLM's engine cores, and the workers of a replica of several hosts, wait for the head on a ZMQ socket, which
reconnects in silence for ever. At work they meet the loss in a collective, after which workers wait once more;
idle ones would stay, with the device's memory, and nothing would restart the node.
"""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from vllm_ascend_ext.integration.server.launcher import GRACE_S
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import server as seams

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""For which the head may be away: a connection that breaks is made again within it."""

# a cut cable is a broken connection after 30 s, by the kernel's probes
_KEEPALIVE_S, _INTERVAL_S, _PROBES = 10, 5, 4
_WATCH = "AscendExtHeadWatch"


def end_this_process() -> None:
    """Ends this process by SIGTERM, on which vLLM frees what it holds, and after a while by force."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def end_in_time(limit_s: int) -> None:
    """Has the kernel end this process by SIGALRM where its exit takes longer than `limit_s` seconds.

    While Python takes itself down, torch waits for the collectives that Gloo has begun, with a rank behind a cut
    cable for half an hour. No thread of Python runs then, and no SIGTERM is heard.
    """
    atexit.register(signal.alarm, limit_s)


@functools.cache  # once a process
def watch_head() -> None:
    """Has this engine core of a headless node watch the head from when it learns the head's addresses."""
    change.wrap(seams.INPUT_SOCKETS, None, _watching)


def _watching(process_inputs: Callable[..., None]) -> Callable[..., None]:
    def watch_and_process(core: Any, input_addresses: list[str], *args: Any) -> None:
        address = input_addresses[0]
        threading.Thread(target=_end_without_head, args=(address,), name=_WATCH, daemon=True).start()
        process_inputs(core, input_addresses, *args)

    return watch_and_process


def watch_first_rank(parallel_config: Any) -> None:
    """Has this worker of a headless node watch the engine's first rank, of the same replica on the head."""
    _watch_listener(parallel_config.master_addr, parallel_config.master_port)


def watch_first_rank_of_actor(init_method: str) -> None:
    """Has this worker, a Ray actor, watch the engine's first rank likewise; Ray would only kill it, later.

    init_method: "tcp://HOST:PORT", where the first rank listens.
    """
    place = urlsplit(init_method)
    _watch_listener(place.hostname, place.port)


def _watch_listener(host: str | None, port: int | None) -> None:
    threading.Thread(target=_end_without_first_rank, args=(host, port), name=_WATCH, daemon=True).start()


def _end_without_first_rank(host: str, port: int) -> None:
    wait_until_closed(host, port)
    _end(f"tcp://{host}:{port}")


def _end_without_head(address: str) -> None:
    wait_until_gone(address)
    _end(address)


def _end(address: str) -> None:
    name = multiprocessing.current_process().name
    logger.error(
        "ascend_ext: the head node at %s has been away for %g s: its server has ended, or the network is cut; "
        "ending %s",
        address,
        PATIENCE_S,
        name,
    )
    end_this_process()


def wait_until_closed(host: str, port: int, patience_s: float = PATIENCE_S) -> None:
    """Waits until nobody has listened at a TCP port for `patience_s` seconds without a break, once somebody has.

    By a connection over which nothing is sent, as `wait_until_gone` does where ZMQ listens.
    """
    away_since: float | None = None
    while away_since is None or time.monotonic() - away_since < patience_s:
        has_connected = False
        try:
            with socket.create_connection((host, port), timeout=patience_s) as connection:
                has_connected = True
                _have_kernel_probe(connection)
                connection.settimeout(None)
                while connection.recv(1):
                    pass
        except OSError:
            time.sleep(patience_s / 20)
        if has_connected:
            away_since = time.monotonic()


def _have_kernel_probe(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


def wait_until_gone(address: str, patience_s: float = PATIENCE_S) -> None:
    """Waits until nothing of ZMQ has answered at `address` for `patience_s` seconds without a break.

    By a connection of its own, over which nothing is sent: the kernel tells of its end, so that a head that is
    only busy or slow, or stopped for a while, is not gone.
    """
    import zmq
    from zmq.utils.monitor import parse_monitor_message

    with zmq.Context() as context, context.socket(zmq.DEALER) as connection:
        options = {
            zmq.LINGER: 0,
            zmq.IPV6: int("[" in address),
            zmq.TCP_KEEPALIVE: 1,
            zmq.TCP_KEEPALIVE_IDLE: _KEEPALIVE_S,
            zmq.TCP_KEEPALIVE_INTVL: _INTERVAL_S,
            zmq.TCP_KEEPALIVE_CNT: _PROBES,
        }
        for option, value in options.items():
            connection.setsockopt(option, value)
        monitor = connection.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        connection.connect(address)
        away_since: float | None = time.monotonic()
        while away_since is None or time.monotonic() - away_since < patience_s:
            if not monitor.poll(int(100 * patience_s)):  # ms
                continue
            is_there = parse_monitor_message(monitor.recv_multipart())["event"] != zmq.EVENT_DISCONNECTED
            away_since = None if is_there else away_since or time.monotonic()
        connection.disable_monitor()
        monitor.close()
