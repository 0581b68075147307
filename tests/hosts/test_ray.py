# SPDX-License-Identifier: Apache-2.0
"""An engine whose workers Ray starts on two hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Host, TwoHosts
from tests.hosts.serving import assert_a_cut_is_named, assert_equals, complete_on_one_host, serving
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts

pytestmark = [
    *(pytest.mark.engine, pytest.mark.slow, pytest.mark.distributed, long_table),
    pytest.mark.usefixtures("vllm_preloaded"),
]

FEATURES = ("attn_scatter", "eplb_load", "mtp_output")
_PORT, _START_S = 6379, 120
_SMALL = ("--num-cpus=1", '--resources={"NPU": 1}', f"--object-store-memory={100 << 20}", "--disable-usage-stats")


def _start(host: Host, folder: str, *arguments: str) -> None:
    """Starts Ray on a host, whose folder for sockets, logs and sessions is the host's own."""
    host.run("mount", "-t", "tmpfs", "tmpfs", folder)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={host.address}"]
    environment = {**os.environ, "VLLM_HOST_IP": host.address, "RAY_USAGE_STATS_ENABLED": "0"}
    started = subprocess.run(
        [*host.command, *command, *_SMALL, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=_START_S,
    )
    assert started.returncode == 0, started.stdout[-2000:] + started.stderr[-2000:]


@pytest.fixture
def cluster(hosts: TwoHosts) -> Iterator[TwoHosts]:
    """Makes a Ray cluster of both hosts; its processes end with the hosts."""
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        head = ("--head", f"--port={_PORT}", f"--temp-dir={folder}", "--include-dashboard=false")
        _start(hosts.head, folder, *head)
        _start(hosts.second, folder, f"--address={hosts.head.address}:{_PORT}")
        try:
            yield hosts
        finally:
            for host in hosts.hosts:
                for name in ("raylet.out", "raylet.err"):
                    print(host.run("sh", "-c", f"tail -n 5 {folder}/session_latest/logs/{name}"))


def _rings(host: Host) -> list[Path]:
    return [path for path in host.shared_memory.iterdir() if "plasma" not in path.name]


def test_workers_of_ray_on_two_hosts(
    tiny_model: str, cluster: TwoHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{cluster.head.address}:{_PORT}")
    launch = ("--tensor-parallel-size", "2", "--distributed-executor-backend", "ray")
    prompts = make_prompts(tiny_model)[:6]
    expected = complete_on_one_host(tiny_model, prompts)
    with serving(cluster, tiny_model, tmp_path, FEATURES, launch, None, [cluster.head]) as served:
        readers = served.readers(cluster.second)
        assert_equals(served, prompts, expected, readers)
        assert_a_cut_is_named(served, prompts, readers)
    end = time.monotonic() + 60
    while any("Worker" in json.dumps(host.left()) for host in cluster.hosts) and time.monotonic() < end:
        time.sleep(0.5)
    print([host.left() for host in cluster.hosts], [_rings(host) for host in cluster.hosts])
