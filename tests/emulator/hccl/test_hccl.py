# SPDX-License-Identifier: Apache-2.0
"""The emulated HCCL through torch.distributed: right values, faults named on every rank, nothing left over."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator

import pytest

from tests.emulator.hccl.launch import Rank, RankServer

pytestmark = [pytest.mark.emulator, pytest.mark.distributed]

FULL = os.environ.get("EMULATOR_FULL") == "1"
NUM_SEQUENCES = 10_000 if FULL else 300  # over all numbers of ranks
SEQUENCES_DEADLINE_S = 3600 if FULL else 240
RACE_STATUS, FAILURE_STATUS = 66, 70
KILLED, ABORTED = -9, -6  # torch_npu's watchdog aborts when HCCL tells it of an error


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RankServer]]:
    """A server for an environment; it lives until the module's end."""
    with contextlib.ExitStack() as running:

        @functools.cache
        def start(**variables: str) -> RankServer:
            server = RankServer(tmp_path_factory.mktemp("ranks"), **variables)
            running.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="module")
def server(servers: Callable[..., RankServer]) -> RankServer:
    return servers()


@pytest.fixture(autouse=True)
def nothing_left(server: RankServer) -> Iterator[None]:
    """No shared memory outlives a test's ranks."""
    yield
    assert not server.left_over()


def check_good(ranks: list[Rank]) -> None:
    for number, rank in enumerate(ranks):
        assert rank.status == 0, f"rank {number} ended with {rank.status}:\n{rank.output}"


def check_named(ranks: list[Rank], *patterns: str) -> None:
    """Every rank failed, and its output has all patterns."""
    for number, rank in enumerate(ranks):
        assert rank.status in (1, RACE_STATUS, FAILURE_STATUS, ABORTED), f"rank {number}: {rank}"
        for pattern in patterns:
            assert re.search(pattern, rank.output), f"rank {number} does not say {pattern!r}:\n{rank.output}"


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_collectives_match_one_process(server: RankServer, num_ranks: int) -> None:
    check_good(server.run("ranks.collectives", num_ranks))


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_groups(server: RankServer, num_ranks: int) -> None:
    check_good(server.run("ranks.groups", num_ranks))


@pytest.mark.parametrize(
    ("variable", "value", "program"),
    [
        ("EMULATOR_SOC", "Ascend910_9391", "collectives"),
        ("TORCH_NPU_USE_COMPATIBLE_IMPL", "1", "collectives"),  # scatter and all_to_all as groups of messages
        ("ROOTINFO_SUBCOMM_ENABLE", "1", "groups"),  # torch_npu asks for HcclCreateSubCommConfig
    ],
)
def test_other_paths_of_torch_npu(
    servers: Callable[..., RankServer], variable: str, value: str, program: str
) -> None:
    check_good(servers(**{variable: value}).run(f"ranks.{program}", 3))


@pytest.mark.parametrize("queue", ["1", "2"])
def test_collectives_from_the_task_queue(servers: Callable[..., RankServer], queue: str) -> None:
    check_good(servers(TASK_QUEUE_ENABLE=queue).run("random.sequences", 2, seed=7, count=20))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_random_sequences(server: RankServer, num_ranks: int) -> None:
    count = NUM_SEQUENCES // 3 + 1
    ranks = server.run("random.sequences", num_ranks, SEQUENCES_DEADLINE_S, seed=num_ranks, count=count)
    check_good(ranks)
    print(f"{num_ranks} ranks: {ranks[0].output.splitlines()[-1]}")


@pytest.mark.parametrize("delays", [1, 2, 3])
def test_random_sequences_under_seeds(server: RankServer, delays: int) -> None:
    check_good(server.run("random.sequences", 3, delays=delays, seed=11, count=15))


@pytest.mark.parametrize("delays", [0, 1, 2, 3])
def test_captured_collectives(server: RankServer, delays: int) -> None:
    check_good(server.run("direct.graph", 2, delays=delays))


def test_called_without_torch_distributed(server: RankServer) -> None:
    check_good(server.run("direct.direct", 3))


FIRST = r"rank 0 \(pid \d+\):? .*"
SECOND = r"rank 1 \(pid \d+\):? .*"
LINE = r".* at .*faults\.py:\d+ in "
DISAGREEMENTS = {
    "operation": (r"HcclAllReduce\(count 6, fp32, sum\)", r"HcclBroadcast\(count 6, fp32, root 0\)"),
    "count": (r"HcclAllReduce\(count 6, fp32, sum\)", r"HcclAllReduce\(count 7, fp32, sum\)"),
    "dtype": (r"HcclAllReduce\(count 6, fp32, sum\)", r"HcclAllReduce\(count 6, int32, sum\)"),
    "reduction": (r"HcclAllReduce\(count 6, fp32, sum\)", r"HcclAllReduce\(count 6, fp32, max\)"),
    "root": (r"HcclBroadcast\(count 6, fp32, root 0\)", r"HcclBroadcast\(count 6, fp32, root 1\)"),
    "splits": (r"HcclAlltoAllV\(send counts \[2, 2\], .*", r"HcclAlltoAllV\(send counts \[3, 1\], .*"),
    "message count": (r"send to rank 1 \(count 5, fp32\)", r"receive from rank 0 \(count 6, fp32\)"),
    "message type": (r"send to rank 1 \(count 5, fp32\)", r"receive from rank 0 \(count 5, int32\)"),
    "message and collective": (r"send to rank 1 \(count 5, fp32\)", r"HcclAllReduce\(count 6, fp32, sum\)"),
    "two sends": (r"send to rank 1 \(count 5, fp32\)", r"send to rank 0 \(count 5, fp32\)"),
}


@pytest.mark.parametrize("kind", DISAGREEMENTS)
def test_disagreement_is_named_on_all_ranks(server: RankServer, kind: str) -> None:
    first, second = DISAGREEMENTS[kind]
    ranks = server.run("faults.disagreement", 2, kind=kind)
    check_named(ranks, FIRST + first + LINE, SECOND + second + LINE)


def test_one_of_three_disagrees(server: RankServer) -> None:
    ranks = server.run("faults.disagreement", 3, kind="operation")
    third = r"rank 2 \(pid \d+\): HcclAllReduce"
    check_named(ranks, FIRST + "HcclAllReduce", SECOND + "HcclBroadcast", third)


def check_death(ranks: list[Rank], victim: int, *patterns: str) -> None:
    assert ranks[victim].status == KILLED
    others = [rank for number, rank in enumerate(ranks) if number != victim]
    check_named(others, rf"rank {victim} \(pid \d+\) is gone", *patterns)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_death_before_a_collective(server: RankServer, num_ranks: int) -> None:
    ranks = server.run("faults.death_before", num_ranks)
    check_death(ranks, 1, r"It has finished its call 2, HcclAllReduce", r"is in its call 3, HcclAllReduce")


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_death_within_a_collective(server: RankServer, num_ranks: int) -> None:
    ranks = server.run("faults.death_within", num_ranks)
    check_death(ranks, 1, r"It is in its call \d+, HcclAllReduce\(count 33554432")


@pytest.mark.parametrize("victim", [0, 1])
def test_death_at_creation(server: RankServer, victim: int) -> None:
    ranks = server.run("faults.death_at_creation", 3, victim=victim)
    check_death(ranks, victim)
    # the survivors that still wait know; a killed creator's segment goes with the next communicator that is made
    check_good(server.run("direct.direct", 2))


@pytest.mark.parametrize("program", ["late", "late_at_creation"])
def test_late_rank(servers: Callable[..., RankServer], program: str) -> None:
    ranks = servers(EMULATOR_HCCL_TIMEOUT_S="2").run(f"faults.{program}", 2, lateness_s=5.0)
    named = {
        "late": r"rank 1 \(pid \d+\) did not come within 2.*: it has finished its call 2, HcclBroadcast",
        "late_at_creation": r"rank 1 has not joined within 2",
    }
    check_named(ranks, named[program])


@pytest.mark.parametrize("waits", [False, True])
def test_asynchronous_work_without_wait_is_a_race(server: RankServer, waits: bool) -> None:
    check_good(server.run("faults.race", 2, waits=waits))
