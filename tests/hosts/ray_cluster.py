# SPDX-License-Identifier: Apache-2.0
"""Starts a Ray cluster of two hosts, each with the place of one rank, and ends it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.hosts.network import INTERFACE, Host, TwoHosts

PORT = 6399
_START_S, _STOP_S = 120, 60
_RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
# by itself Ray gives its workers less of the processors than everything else has
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@contextlib.contextmanager
def ray_cluster(hosts: TwoHosts) -> Iterator[dict[str, str]]:
    """Runs Ray on both hosts; gives the environment of a program that is to find it there."""
    address = f"{hosts.head.address}:{PORT}"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        for host in hosts.hosts:  # each has files of its own there, by which Ray knows its place
            host.run("mount", "-t", "tmpfs", "tmpfs", folder)
        try:
            _ray(hosts.head, "start", "--head", f"--port={PORT}", *_of_head(folder), *_place(hosts.head))
            _ray(hosts.second, "start", f"--address={address}", *_place(hosts.second))
            yield {"RAY_ADDRESS": address, **_SETTINGS}
        finally:
            for host in hosts.hosts:
                end(host)


def end(host: Host) -> None:
    """Ends what Ray runs on a host, its workers with it."""
    for process in host.processes():
        with contextlib.suppress(Exception):
            if re.search(r"\bray", " ".join(process.cmdline())):
                process.kill()
    host.wait_until_nothing_runs(_STOP_S)


def _place(host: Host) -> tuple[str, ...]:
    memory = 100 << 20  # of its object store
    return (
        *(f"--node-ip-address={host.address}", "--num-cpus=2", '--resources={"NPU": 1}'),
        *(f"--object-store-memory={memory}", "--disable-usage-stats"),
    )


def _of_head(folder: str) -> tuple[str, ...]:
    return f"--temp-dir={folder}", "--include-dashboard=false"


def _ray(host: Host, *arguments: str) -> None:
    environment = {**os.environ, **_SETTINGS, "VLLM_HOST_IP": host.address, "GLOO_SOCKET_IFNAME": INTERFACE}
    done = subprocess.run(
        [*host.command, *_RAY, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_START_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
