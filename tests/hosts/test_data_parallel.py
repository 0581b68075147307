# SPDX-License-Identifier: Apache-2.0
"""A data-parallel engine of two hosts: `--data-parallel-address` on both, `--headless` on the second."""

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

FEATURES = ("eplb_load", "dp_gather", "mtp_output")


def _serving(hosts: TwoHosts, model: str, folder: Path) -> AbstractContextManager[Serving]:
    launch = (
        *("--data-parallel-size", "2", "--data-parallel-size-local", "1"),
        *("--data-parallel-address", hosts.head.address, "--data-parallel-rpc-port", "13345"),
    )
    of_second = ("--data-parallel-start-rank", "1")
    return serving(hosts, model, folder, FEATURES, launch, of_second, hosts.hosts)


@pytest.mark.parametrize(
    "hosts",
    [pytest.param(0.0, id="cable"), pytest.param(0.02, id="slow cable", marks=long_table)],
    indirect=True,
)
def test_replicas_serve_and_stop(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    """A slow cable, by which each packet is 20 ms late, only slows; both servers end when they are told to."""
    serve = functools.partial(_serving, hosts, tiny_model, tmp_path)
    with equal_to_one_host(tiny_model, hosts.head, serve) as (served, _, _):
        pass
    served.wait_until_nothing_is_left()


@long_table
def test_a_cut_between_replicas_is_named(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    serve = functools.partial(_serving, hosts, tiny_model, tmp_path)
    with equal_to_one_host(tiny_model, hosts.second, serve) as (served, prompts, readers):
        assert_a_cut_is_named(served, prompts, readers)
    served.wait_until_nothing_is_left(reader=hosts.second)
