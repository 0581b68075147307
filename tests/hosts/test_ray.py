# SPDX-License-Identifier: Apache-2.0
"""Engines whose workers, or engine cores and workers, are Ray actors on two hosts, by one `vllm serve`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts.network import TwoHosts
from tests.hosts.ray_cluster import ray_cluster
from tests.hosts.serving import Serving, assert_a_cut_is_named, equal_to_one_host, serving
from tests.support.long_tables import long_table

pytest.importorskip("ray", reason="Ray is not installed (requirements/ray.txt)")
pytestmark = [
    *(pytest.mark.engine, pytest.mark.slow, pytest.mark.distributed),
    pytest.mark.usefixtures("vllm_preloaded"),
]

_END_S = 60.0


@dataclass(frozen=True)
class Launch:
    """Holds how an engine is started, with what features, and what its log has after a cut."""

    arguments: tuple[str, ...]
    features: tuple[str, ...]
    has_replicas: bool
    named: str
    freed: str  # pattern of the files in shared memory that a stop gives back


WORKERS = Launch(
    ("--tensor-parallel-size", "2", "--distributed-executor-backend", "ray"),
    ("attn_scatter", "eplb_load", "mtp_output"),
    has_replicas=False,
    # whichever comes first: the collective's deadline, or that Ray takes a host that is silent for dead
    named=r"world ranks \[1\] are silent|RayWorkerProc rank=\[1\] died",
    freed="*",
)
ENGINE_CORES = Launch(
    ("--data-parallel-size", "2", "--data-parallel-size-local", "1", "--data-parallel-backend", "ray"),
    ("eplb_load", "dp_gather", "mtp_output"),
    has_replicas=True,
    named="CollectiveError",
    freed="ascend_ext*",  # queues of vLLM stay, as Ray kills what would unlink them
)


@contextlib.contextmanager
def _serving(launch: Launch, hosts: TwoHosts, model: str, folder: Path) -> Iterator[Serving]:
    arguments, replicas = launch.arguments, [hosts.head]
    if launch.has_replicas:
        arguments, replicas = (*arguments, "--data-parallel-address", hosts.head.address), list(hosts.hosts)
    with (
        ray_cluster(hosts) as environment,
        serving(hosts, model, folder, launch.features, arguments, None, replicas, environment) as served,
    ):
        yield served


@pytest.mark.parametrize(
    "launch",
    [pytest.param(WORKERS, id="workers"), pytest.param(ENGINE_CORES, id="engine cores", marks=long_table)],
)
def test_actors_serve_and_stop(launch: Launch, tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    """Actors are given time to free what they hold; Ray, which goes on, would kill them."""
    serve = functools.partial(_serving, launch, hosts, tiny_model, tmp_path)
    with equal_to_one_host(tiny_model, hosts.second, serve) as (served, _, readers):
        assert all(list(sender.shared_memory.iterdir()) for sender in served.replicas)
        served.head.stop(_END_S)
        for host in hosts.hosts:
            host.wait_until_memory_is_free(_END_S, launch.freed)
        assert [str(reader.error) for reader in readers if reader.error is not None] == []


@long_table
@pytest.mark.parametrize("launch", [WORKERS, ENGINE_CORES], ids=["workers", "engine cores"])
def test_a_cut_between_actors_is_named(launch: Launch, tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    serve = functools.partial(_serving, launch, hosts, tiny_model, tmp_path)
    with equal_to_one_host(tiny_model, hosts.second, serve) as (served, prompts, readers):
        assert_a_cut_is_named(served, prompts, readers, launch.named)
    if launch.has_replicas:  # else Ray kills a worker that stands in a collective, and what it holds stays
        served.wait_until_nothing_is_left(reader=hosts.second)
