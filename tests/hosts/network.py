# SPDX-License-Identifier: Apache-2.0
"""Makes two hosts on this machine: network, mounts, host names and shared memory of their own, and a cable.

A host is a process that sleeps in new namespaces, which end with it and with what it started. Programs enter by
`Host.command`, threads of this process by `Host.inside`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PREPARE = "trap '' CHLD; mount -t tmpfs tmpfs /dev/shm && hostname {name} && echo ready && exec sleep infinity"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_END_S = 10.0
_SHOWN = 200  # characters of a command
INTERFACE = "cable"


class NoHostsError(RuntimeError):
    """Reports that this machine lets nobody make network namespaces; the message says what it refused."""


@dataclass(frozen=True)
class Host:
    """Holds one host.

    name: its host name, which nothing resolves, as on a new machine. address: of its end of the cable.
    """

    name: str
    address: str
    _sleeper: subprocess.Popen[str]

    @classmethod
    def start(cls, name: str, address: str) -> Host:
        """Starts a host without a cable; raises NoHostsError."""
        namespaces = ("unshare", "--mount", "--uts", "--net", "--ipc")
        command = [*namespaces, "sh", "-c", _PREPARE.format(name=name)]
        pipe = subprocess.PIPE
        sleeper = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        assert sleeper.stdout is not None and sleeper.stderr is not None
        if sleeper.stdout.readline().strip() != "ready":
            sleeper.kill()
            raise NoHostsError(sleeper.stderr.read().strip())
        host = cls(name, address, sleeper)
        host.run("ip", "link", "set", "lo", "up")
        return host

    @property
    def pid(self) -> int:
        """Returns the process whose namespaces the host is."""
        return self._sleeper.pid

    @property
    def shared_memory(self) -> Path:
        """Returns the host's /dev/shm, as seen from here."""
        return Path(f"/proc/{self.pid}/root/dev/shm")

    @property
    def command(self) -> tuple[str, ...]:
        """Returns the beginning of a command that runs on the host."""
        return ("nsenter", f"--target={self.pid}", "--mount", "--uts", "--net", "--ipc", f"--wdns={os.getcwd()}")

    def run(self, *command: str) -> str:
        """Runs a short command on the host and returns what it writes."""
        return subprocess.run(
            [*self.command, *command], check=True, capture_output=True, text=True, timeout=30
        ).stdout

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Puts this thread, and those that it starts meanwhile, into the host's network."""
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.pid}/ns/net") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def processes(self) -> list[psutil.Process]:
        """Returns the living processes in the host's network, but for the one that keeps it."""
        network = os.readlink(f"/proc/{self.pid}/ns/net")
        found = []
        for process in psutil.process_iter():
            try:
                is_here = os.readlink(f"/proc/{process.pid}/ns/net") == network
                if is_here and process.pid != self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, OSError):
                continue  # it has just ended, or is a zombie
        return [process for process in found if process.pid != os.getpid()]  # a thread of ours may be there

    def left(self) -> list[str]:
        """Returns all that is still on the host: processes, and files in shared memory."""
        processes = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(f"{process.pid} {' '.join(process.cmdline())[:_SHOWN]}")
        return processes + [str(path.relative_to(self.shared_memory)) for path in self.shared_memory.rglob("*")]

    def wait_until_nothing_is_left(self, deadline_s: float, but: Collection[str] = ()) -> None:
        """Waits until the host is as it was at first, but for these files in shared memory; raises AssertionError
        with what is left."""
        end = time.monotonic() + deadline_s
        while (left := set(self.left()) - set(but)) and time.monotonic() < end:
            time.sleep(0.2)
        assert not left, f"left on {self.name}: {left}"

    def wait_until_nothing_runs(self, deadline_s: float) -> None:
        """Waits until no process is on the host; raises AssertionError with those that are."""
        end = time.monotonic() + deadline_s
        while (running := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        assert not running, f"running on {self.name}: {running}"

    def wait_until_memory_is_free(self, deadline_s: float, of: str = "*") -> None:
        """Waits until nothing is in shared memory, whoever still runs; raises AssertionError with what is.

        of: pattern of the names that count.
        """
        end = time.monotonic() + deadline_s
        while (left := [path.name for path in self.shared_memory.glob(of)]) and time.monotonic() < end:
            time.sleep(0.2)
        assert not left, f"left on {self.name}: {left}"

    def end(self) -> None:
        """Ends the host and everything on it."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._sleeper.kill()
        self._sleeper.communicate(timeout=_END_S)


def _enter(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True)
class TwoHosts:
    """Holds a head and a second host, and the cable between them."""

    head: Host
    second: Host

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.head, self.second

    def cut(self) -> None:
        """Takes the cable away: nothing arrives, and no connection is told of it."""
        self.second.run("ip", "link", "set", INTERFACE, "down")


@contextlib.contextmanager
def _slow_cable(head: Host, second: Host, delay_s: float) -> Iterator[None]:
    program = Path(__file__).with_name("slow_cable.py")
    command = [sys.executable, str(program), str(head.pid), str(second.pid), str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cable:
        try:
            assert cable.stdout is not None
            if cable.stdout.readline().strip() != "ready":
                raise NoHostsError("no /dev/net/tun for a slow cable")
            yield
        finally:
            cable.kill()


@contextlib.contextmanager
def two_hosts(delay_s: float = 0.0) -> Iterator[TwoHosts]:
    """Makes two hosts with a cable, and ends them; raises NoHostsError.

    delay_s: of each packet; without one the cable is a pair of the kernel's devices.
    """
    with contextlib.ExitStack() as stack:
        hosts = []
        for name, address in (("head", "10.77.0.1"), ("second", "10.77.0.2")):
            hosts.append(Host.start(name, address))
            stack.callback(hosts[-1].end)
        head, second = hosts
        if delay_s:
            stack.enter_context(_slow_cable(head, second, delay_s))
        else:
            other_end = ("peer", "name", INTERFACE, "netns", str(second.pid))
            head.run("ip", "link", "add", INTERFACE, "type", "veth", *other_end)
        for host in hosts:
            host.run("ip", "address", "add", f"{host.address}/24", "dev", INTERFACE)
            host.run("ip", "link", "set", INTERFACE, "up")
        yield TwoHosts(head, second)
