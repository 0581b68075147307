# SPDX-License-Identifier: Apache-2.0
"""A data-parallel engine of two hosts: `--data-parallel-address` on both, `--headless` on the second."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.hosts.network import TwoHosts
from tests.hosts.serving import Serving, assert_a_cut_is_named, assert_equals, complete_on_one_host, serving
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts

pytestmark = [
    *(pytest.mark.engine, pytest.mark.slow, pytest.mark.distributed, long_table),
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


def test_replicas_on_two_hosts(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    prompts = make_prompts(tiny_model)[:6]
    expected = complete_on_one_host(tiny_model, prompts)
    with _serving(hosts, tiny_model, tmp_path) as served:
        readers = served.readers(hosts.second)
        assert_equals(served, prompts, expected, readers)
        assert_a_cut_is_named(served, prompts, readers)
    served.wait_until_nothing_is_left(reader=hosts.second)


@pytest.mark.parametrize("hosts", [0.02], indirect=True, ids=["20 ms"])
def test_a_slow_cable_only_slows(tiny_model: str, hosts: TwoHosts, tmp_path: Path) -> None:
    """Each packet is late; both servers end when they are told to, and leave nothing."""
    prompts = make_prompts(tiny_model)[:6]
    expected = complete_on_one_host(tiny_model, prompts)
    with _serving(hosts, tiny_model, tmp_path) as served:
        assert_equals(served, prompts, expected, served.readers(hosts.head))
    served.wait_until_nothing_is_left()
