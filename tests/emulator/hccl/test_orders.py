# SPDX-License-Identifier: Apache-2.0
"""Ranks that launch the collectives of two groups in different orders are told, with both places."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.emulator.hccl.launch import Rank, RankServer
from tests.emulator.hccl.test_hccl import check_good, check_named

pytestmark = [pytest.mark.emulator, pytest.mark.distributed]

ORDERS = "ranks launch the collectives of two HCCL communicators in different orders"
CALL = r"launches HcclAllReduce\(count 64, fp32, sum\) at .*orders\.py:\d+ in .* after \d+ of communicator \S+"
LINES = rf"rank \d \(pid \d+\) {CALL}\n +rank \d \(pid \d+\) {CALL}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    server = RankServer(tmp_path_factory.mktemp("ranks"), EMULATOR_HCCL_TIMEOUT_S="5")
    yield server
    assert not server.left_over()
    server.close()


def num_reports(ranks: list[Rank]) -> int:
    check_good(ranks)
    return sum(int(re.findall(r"^(\d+) reports$", rank.output, re.MULTILINE)[0]) for rank in ranks)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("program", ["asynchronous", "captured"])
def test_different_orders_are_reported(server: RankServer, program: str, num_ranks: int) -> None:
    ranks = server.run(f"orders.{program}", num_ranks, differs=True)
    assert 1 <= num_reports(ranks) <= num_ranks  # once for two communicators, by each rank that comes later
    report = next(rank.output for rank in ranks if ORDERS in rank.output)
    assert re.search(LINES, report), report


@pytest.mark.parametrize("delays", range(1, 11))
def test_different_orders_are_reported_under_seeds(server: RankServer, delays: int) -> None:
    assert num_reports(server.run("orders.asynchronous", 2, differs=True, delays=delays))


def test_ranks_that_wait_for_each_other_are_told_why(server: RankServer) -> None:
    ranks = server.run("orders.blocking", 2)
    check_named(ranks, "a rank is late")
    assert any(ORDERS in rank.output for rank in ranks)


def test_different_orders_far_on_are_reported(server: RankServer) -> None:
    assert num_reports(server.run("orders.far_ahead", 2))


@pytest.mark.parametrize("program", ["asynchronous", "captured"])
def test_one_order_is_not_reported(server: RankServer, program: str) -> None:
    assert num_reports(server.run(f"orders.{program}", 2, differs=False)) == 0


@pytest.mark.parametrize("delays", range(5))
def test_overlapping_groups_in_one_order_are_not_reported(server: RankServer, delays: int) -> None:
    assert num_reports(server.run("orders.right", 3, delays=delays)) == 0
