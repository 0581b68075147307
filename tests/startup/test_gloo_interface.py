# SPDX-License-Identifier: Apache-2.0
"""Gloo's interface: the one that reaches the other hosts, where the engine has several and nobody has chosen."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.integration.ranks.interface import GLOO_INTERFACE, choose_gloo_interface

ONE_HOST = {
    "nnodes": 1,
    "master_addr": "127.0.0.1",
    "data_parallel_size": 2,
    "data_parallel_size_local": 2,
    "data_parallel_master_ip": "127.0.0.1",
    "use_ray": False,
}


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO_INTERFACE, "")  # so that it is as it was afterwards
    monkeypatch.delenv(GLOO_INTERFACE)
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)


def chosen(**changes: Any) -> str | None:
    choose_gloo_interface(SimpleNamespace(**ONE_HOST | changes))
    return os.environ.get(GLOO_INTERFACE)


@pytest.mark.parametrize("changes", [{"nnodes": 2}, {"data_parallel_size_local": 1}], ids=str)
def test_the_interface_towards_the_head(changes: dict[str, Any]) -> None:
    assert chosen(**changes) == "lo"


def test_the_interface_of_the_hosts_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HOST_IP", "127.0.0.1")
    assert chosen(nnodes=2, master_addr="192.0.2.1") == "lo"  # an address of documentation, which is nobody's


def test_one_host_needs_none() -> None:
    assert chosen() is None


def test_ray_hands_variables_on_to_other_hosts() -> None:
    assert chosen(data_parallel_size_local=1, use_ray=True) is None


def test_what_was_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO_INTERFACE, "eth7")
    assert chosen(nnodes=2) == "eth7"


def test_an_address_of_another_host_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLLM_HOST_IP", "192.0.2.1")
    monkeypatch.setattr(logging.getLogger("vllm_ascend_ext"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert chosen(nnodes=2) is None
    assert "'192.0.2.1'; set GLOO_SOCKET_IFNAME" in caplog.text
