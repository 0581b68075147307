# SPDX-License-Identifier: Apache-2.0
"""An engine whose workers are Ray actors on two hosts: one `vllm serve` on the head."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.network import TwoHosts
from tests.hosts.ray_cluster import ray_cluster
from tests.hosts.serving import assert_a_cut_is_named, assert_equals, complete_on_one_host, serving
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts

pytest.importorskip("ray", reason="Ray is not installed (requirements/ray.txt)")
pytestmark = [
    *(pytest.mark.engine, pytest.mark.slow, pytest.mark.distributed, long_table),
    pytest.mark.usefixtures("vllm_preloaded"),
]


def test_ranks_of_a_replica_are_actors(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    launch = ("--tensor-parallel-size", "2", "--distributed-executor-backend", "ray")
    features = ("attn_scatter", "eplb_load", "mtp_output")
    prompts = make_prompts(tiny_model)[:6]
    expected = complete_on_one_host(tiny_model, prompts)
    with ray_cluster(hosts) as environment:
        with serving(hosts, tiny_model, tmp_path, features, launch, None, [hosts.head], environment) as served:
            readers = served.readers(hosts.second)
            assert_equals(served, prompts, expected, readers)
            assert_a_cut_is_named(served, prompts, readers, ["RayWorkerProc rank=[1] died"])
    served.wait_until_nothing_is_left(reader=hosts.second)


def test_engine_cores_are_actors(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    launch = (
        *("--data-parallel-size", "2", "--data-parallel-size-local", "1", "--data-parallel-backend", "ray"),
        *("--data-parallel-address", hosts.head.address),
    )
    features = ("eplb_load", "dp_gather", "mtp_output")
    prompts = make_prompts(tiny_model)[:6]
    expected = complete_on_one_host(tiny_model, prompts)
    with ray_cluster(hosts) as environment:
        with serving(hosts, tiny_model, tmp_path, features, launch, None, hosts.hosts, environment) as served:
            readers = served.readers(hosts.second)
            assert_equals(served, prompts, expected, readers)
            assert_a_cut_is_named(served, prompts, readers, ["CollectiveError"])
    served.wait_until_nothing_is_left(reader=hosts.second)
