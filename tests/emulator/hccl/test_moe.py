# SPDX-License-Identifier: Apache-2.0
"""MoE dispatch and combine over the emulated HCCL, on an emulated A3 and A2: right values, limits and faults in
words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulator.hccl.launch import RankServer
from tests.emulator.hccl.test_hccl import check_good, check_named
from tests.support.long_tables import long_table

pytestmark = [pytest.mark.emulator, pytest.mark.distributed]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    running = RankServer(
        tmp_path_factory.mktemp("ranks"), EMULATOR_SOC="Ascend910_9391", EMULATOR_HCCL_TIMEOUT_S="4"
    )
    yield running
    assert not running.left_over()
    running.close()


@pytest.fixture(scope="module")
def a2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    running = RankServer(tmp_path_factory.mktemp("A2"), EMULATOR_SOC="Ascend910B1", EMULATOR_DEVICES="16")
    yield running
    assert not running.left_over()
    running.close()


@long_table  # sixteen processes
@pytest.mark.parametrize("program", ["moe.values", "moe_faults.refused_on_an_a2"])
def test_sixteen_ranks_of_an_a2(a2: RankServer, program: str) -> None:
    check_good(a2.run(program, 16, 400, **({"dtype": "bfloat16"} if program == "moe.values" else {})))


def test_an_a2_needs_sixteen_ranks(a2: RankServer) -> None:
    check_good(a2.run("moe_faults.refused_few_ranks", 2))


@pytest.mark.parametrize(("num_ranks", "dtype"), [(2, "bfloat16"), (4, "float16")])
def test_values_match_one_process(server: RankServer, num_ranks: int, dtype: str) -> None:
    check_good(server.run("moe.values", num_ranks, dtype=dtype))


@pytest.mark.parametrize("scaled", [False, True])
def test_rows_are_quantised_on_the_way(server: RankServer, scaled: bool) -> None:
    check_good(server.run("moe.quantised", 2, scaled=scaled))


def test_captured(server: RankServer) -> None:
    check_good(server.run("moe.graph", 2, delays=1))


def test_limits_are_errors_of_the_call(server: RankServer) -> None:
    check_good(server.run("moe_faults.refused", 2))


NUMBERS = "experts 4, hidden 32, top 2, quant mode 0, bf16"
CALL = r"aclnnMoeDistributeDispatchV2\(global batch {}, " + NUMBERS + r"\) at .*moe_faults\.py"
FAULTS = {
    "masks": ("the ranks have 3, 5 tokens in aclnnMoeDistributeDispatchV2, and x_active_mask hides some",),
    "batch size": ("the ranks disagree", CALL.format(6), CALL.format(10)),
    "late": (r"rank 1 \(pid \d+\) did not come within", "is in its call .*aclnnMoeDistributeDispatchV2 at"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_named_on_all_ranks(server: RankServer, kind: str) -> None:
    check_named(server.run("moe_faults.fault", 2, kind=kind), *FAULTS[kind])


OWN_FAULTS = {
    "hole": "x_active_mask has a true behind a false",
    "twice": "expert_ids of token 1 name expert 3, which is there twice",
    "combine": "which was not sent to it|it does not fit its dispatch",
}


@pytest.mark.parametrize("kind", OWN_FAULTS)
def test_faults_of_the_data_are_failures_of_the_device(server: RankServer, kind: str) -> None:
    check_named(server.run("moe_faults.fault", 2, kind=kind), OWN_FAULTS[kind])


@pytest.mark.parametrize("waits", [False, True])
def test_reading_rows_without_waiting_is_a_race(server: RankServer, waits: bool) -> None:
    check_good(server.run("moe_faults.race", 2, waits=waits))
