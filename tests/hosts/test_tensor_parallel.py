# SPDX-License-Identifier: Apache-2.0
"""A tensor-parallel engine of two hosts: `--nnodes 2`, `--headless` on the second."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.hosts.network import TwoHosts
from tests.hosts.serving import Serving, assert_a_cut_is_named, equal_to_one_host, serving
from tests.support.long_tables import long_table

pytestmark = [
    *(pytest.mark.engine, pytest.mark.slow, pytest.mark.distributed),
    pytest.mark.usefixtures("vllm_preloaded"),
]

FEATURES = ("attn_scatter", "eplb_load", "mtp_output")


def _serving(hosts: TwoHosts, model: str, folder: Path) -> AbstractContextManager[Serving]:
    launch = (
        *("--tensor-parallel-size", "2", "--nnodes", "2", "--distributed-executor-backend", "mp"),
        *("--master-addr", hosts.head.address, "--master-port", "29501"),
    )
    return serving(hosts, model, folder, FEATURES, launch, ("--node-rank", "1"), [hosts.head])


def test_ranks_of_a_replica_serve_and_stop(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    serve = functools.partial(_serving, hosts, tiny_model, tmp_path)
    with equal_to_one_host(tiny_model, hosts.second, serve) as (served, _, _):
        pass
    served.wait_until_nothing_is_left()


@long_table
def test_a_cut_within_a_replica_is_named(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    serve = functools.partial(_serving, hosts, tiny_model, tmp_path)
    with equal_to_one_host(tiny_model, hosts.second, serve) as (served, prompts, readers):
        assert_a_cut_is_named(served, prompts, readers)
    served.wait_until_nothing_is_left(reader=hosts.second)
