# SPDX-License-Identifier: Apache-2.0
"""Is a slow cable between two hosts: a program that hands each packet of one on to the other after a while.

    python slow_cable.py PID PID DELAY_S

It makes a network device in the network of each process, says "ready", and forwards until it is ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from typing import TextIO

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001  # IFF_TUN | IFF_NO_PI
_LARGEST = 65536


def enter(network: TextIO) -> None:
    """Puts this process into a network."""
    if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def open_end(pid: int, interface: str) -> int:
    """Makes the device `interface` in the network of process `pid`; returns what its packets are read from.

    This process goes back to its own network: it is none of the host's processes.
    """
    with open("/proc/self/ns/net") as own, open(f"/proc/{pid}/ns/net") as network:
        enter(network)
        try:
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _TUN_WITHOUT_HEADER))
        finally:
            enter(own)
    return end


def forward(ends: tuple[int, int], delay_s: float) -> None:
    """Hands packets on, in their order, each `delay_s` seconds after it came."""
    other = dict(zip(ends, reversed(ends), strict=True))
    on_the_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait_s = max(on_the_way[0][0] - time.monotonic(), 0) if on_the_way else None
        for end in select.select(ends, [], [], wait_s)[0]:
            on_the_way.append((time.monotonic() + delay_s, other[end], os.read(end, _LARGEST)))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, packet = on_the_way.popleft()
            try:
                os.write(end, packet)
            except OSError:
                continue  # the device is down: the packet is lost


if __name__ == "__main__":
    interface = "cable"
    both = open_end(int(sys.argv[1]), interface), open_end(int(sys.argv[2]), interface)
    print("ready", flush=True)
    forward(both, float(sys.argv[3]))
