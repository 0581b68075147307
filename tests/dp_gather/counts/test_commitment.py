# SPDX-License-Identifier: Apache-2.0
"""Commitments about the next pass: what is promised, that all decide alike, and that promises are kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dp_gather.counts.replicas import DisagreementError, Forgetful, Hasty, Selfish, World
from vllm_ascend_ext.dp_gather.commitment import (
    OPEN,
    Commitment,
    CommitmentError,
    bounds,
    check,
    commit,
    decode,
    encode,
)


def promised(**changes: int) -> Commitment:
    numbers = {"num_waiting": 0, "all_decode": True, "num_running": 3, "decode_rows": 2, "row_limit": 64}
    return commit(**numbers | changes)


def test_what_is_promised() -> None:
    assert promised() == Commitment(6, 3)
    assert promised(decode_rows=1) == Commitment(3, 3)
    assert promised(num_running=1, decode_rows=4) == Commitment(4, 4)  # a dummy drafts as many rows every time
    assert promised(num_running=0) == Commitment(2, 2)  # a dummy
    assert promised(num_running=40) == Commitment(64, 40)
    assert promised(num_waiting=1) == promised(all_decode=False) == OPEN


def test_one_open_replica_makes_all_ask() -> None:
    closed = Commitment(4, 2)
    assert bounds((closed, Commitment(2, 2))) == (closed, Commitment(2, 2))
    assert bounds((closed, OPEN)) is None and bounds(()) is None


def test_broken_promise_and_malformed_commitments() -> None:
    check(4, 4, 0)
    with pytest.raises(CommitmentError, match="replica 3 has 5 rows .* at most 4"):
        check(5, 4, 3)
    for rows, draft_rows in ((1, 0), (0, 1), (-1, 1)):
        with pytest.raises(ValueError, match="no commitment"):
            Commitment(rows, draft_rows)


@given(st.lists(st.one_of(st.just(OPEN), st.builds(Commitment, st.integers(1, 9), st.integers(1, 9))), min_size=1))
def test_vectors_add_up(commitments: list[Commitment]) -> None:
    vectors = [encode(commitment, i, len(commitments)) for i, commitment in enumerate(commitments)]
    assert decode([sum(column) for column in zip(*vectors, strict=True)]) == tuple(commitments)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_replicas=st.integers(1, 4),
    decode_rows=st.integers(1, 4),
    late=st.integers(0, 2),
    arrivals=st.sampled_from([0.0, 0.02, 0.2, 0.9]),
)
def test_replicas_agree_and_keep_their_promises(
    seed: int, num_replicas: int, decode_rows: int, late: int, arrivals: float
) -> None:
    """`World` raises where they do not."""
    world = World(seed, num_replicas, decode_rows, late, arrivals)
    world.run(150)
    assert max(replica.longest_hold for replica in world.replicas) <= 1
    assert world.num_ahead + world.num_asked == 150


def test_the_simulation_plans_ahead_rests_and_holds() -> None:
    worlds = [World(seed, arrivals=0.02) for seed in range(20)]
    for world in worlds:
        world.run(300)
    assert sum(world.num_ahead for world in worlds) > 15 * 300
    assert sum(world.num_waves for world in worlds) > 20
    assert max(replica.longest_hold for world in worlds for replica in world.replicas) == 1


def run_all(**settings: type) -> None:
    for seed in range(60):
        World(seed, arrivals=0.05, **settings).run(300)


def test_planted_hold_ignored() -> None:
    with pytest.raises(CommitmentError, match="committed to at most"):
        run_all(replica_class=Hasty)


def test_planted_flag_tied_to_schedules() -> None:
    with pytest.raises(CommitmentError, match="committed to at most"):
        run_all(replica_class=Forgetful)


def test_planted_decision_from_the_own_commitment() -> None:
    with pytest.raises(DisagreementError):
        for seed in range(20):
            Selfish(seed).run(100)
