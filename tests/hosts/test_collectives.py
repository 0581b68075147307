# SPDX-License-Identifier: Apache-2.0
"""A collective between two hosts whose cable is cut ends with an error, within its deadline on both."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.hosts.network import INTERFACE, TwoHosts

pytestmark = [pytest.mark.distributed]

DEADLINE_S = 4.0
RANK = """
import os, sys, time
import torch
import torch.distributed as dist
from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives

dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
ranks = Collectives(dist.group.WORLD, float(sys.argv[3]), "rows")
ranks.all_reduce_(torch.ones(1))
print("ready", flush=True)
sys.stdin.readline()
begin = time.monotonic()
try:
    if sys.argv[4] == "all-reduce":
        ranks.all_reduce_(torch.ones(1))
    else:
        ranks.reduce_scatter_rows(torch.ones(2, 1), None)
except CollectiveError as error:
    print(f"{time.monotonic() - begin:.1f}", error, flush=True)
os._exit(0)  # torch would wait for its store
"""


def _start(hosts: TwoHosts, rank: int, operation: str) -> subprocess.Popen[str]:
    command = ["env", f"GLOO_SOCKET_IFNAME={INTERFACE}", sys.executable, "-c", RANK]
    place = (f"tcp://{hosts.head.address}:29500", str(rank), str(DEADLINE_S), operation)
    return subprocess.Popen(
        [*hosts.hosts[rank].command, *command, *place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("operation", ["all-reduce", "reduce-scatter"])
def test_a_cut_cable_is_an_error_on_both_hosts(hosts: TwoHosts, operation: str) -> None:
    """The second host cannot reach the store, whose calls have no deadline of their own."""
    ranks = [_start(hosts, rank, operation) for rank in (0, 1)]
    try:
        for rank in ranks:
            assert rank.stdout is not None and rank.stdout.readline() == "ready\n"
        hosts.cut()
        begin = time.monotonic()
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write("\n")
            rank.stdin.flush()
        first, second = (rank.communicate(timeout=60)[0] for rank in ranks)
        took_s = time.monotonic() - begin
    finally:
        for rank in ranks:
            rank.kill()
    assert took_s < DEADLINE_S + 8, (first, second)
    assert "not finished within 4 s; world ranks [1] are silent" in first
    assert "on world rank 1 of [0, 1]" in second and "store cannot be reached" in second
