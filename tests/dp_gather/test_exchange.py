# SPDX-License-Identifier: Apache-2.0
"""DP gather over real processes: every mode, forward mode and skew equals one process without padding."""

from __future__ import annotations

import dataclasses
import re
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.dp_gather.layer import forward_modes, plan_for, run_layer, topologies
from tests.support.gloo_ranks import run_ranks
from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.dp_gather.exchange import DpGather, PlanError
from vllm_ascend_ext.dp_gather.machine import describe
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology
from vllm_ascend_ext.integration.dp_gather.counts.overlapped import OverlappedCounts
from vllm_ascend_ext.integration.dp_gather.planner import check_agreement
from vllm_ascend_ext.integration.errors import StartupError

pytestmark = pytest.mark.distributed


def _groups(topology: Topology) -> tuple[Collectives, Collectives | None]:
    """The gather's group, and this replica's: every rank makes the groups of all replicas."""
    tp_size = topology.attn_tp_size
    group = Collectives(dist.group.WORLD, 60.0, "gather")
    if tp_size == 1:
        return group, None
    replicas = [
        dist.new_group([replica * tp_size + tp_rank for tp_rank in range(tp_size)])
        for replica in range(topology.dp_size)
    ]
    return group, Collectives(replicas[group.rank // tp_size], 60.0, "attention TP")


def _every_mode(rank: int, num_ranks: int) -> int:
    num_layers = 0
    for topology in topologies(num_ranks):
        group, attn_tp = _groups(topology)
        for counts in forward_modes(topology.dp_size).values():
            for mode in GatherMode:
                for partial in (False, True) if attn_tp is not None else (False,):
                    run_layer(group, attn_tp, plan_for(counts, topology, mode), partial=partial)
                    num_layers += 1
    return num_layers


@pytest.mark.parametrize("num_ranks", [2, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_every_mode_equals_one_process(num_ranks: int) -> None:
    splits = topologies(num_ranks)
    expected = sum(10 * len(GatherMode) * (1 if topology.attn_tp_size == 1 else 2) for topology in splits)
    assert run_ranks(_every_mode, num_ranks, num_ranks, deadline_s=400) == [expected] * num_ranks


def _any_counts(rank: int, topology: Topology) -> int:
    group, attn_tp = _groups(topology)
    num_examples = 0

    # derandomised, so that all ranks draw the same; no shrinking, which they could not do together
    @settings(max_examples=40, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        st.lists(st.integers(0, 70), min_size=topology.dp_size, max_size=topology.dp_size),
        st.sampled_from(list(GatherMode)),
    )
    def run(counts: list[int], mode: GatherMode) -> None:
        nonlocal num_examples
        run_layer(group, attn_tp, plan_for(counts, topology, mode), partial=attn_tp is not None)
        num_examples += 1

    run()
    return num_examples


@pytest.mark.parametrize("topology", [Topology(3), Topology(2, 2)], ids=["DP3", "DP2xTP2"])
def test_any_counts(topology: Topology) -> None:
    examples = run_ranks(_any_counts, topology.num_ranks, topology)
    assert len(set(examples)) == 1 and examples[0] >= 30


def _any_bits(rank: int) -> None:
    """NaN, -0.0, denormals; rows of 2, 4, 8 and an odd number of bytes."""
    gather = DpGather(Collectives(dist.group.WORLD, 60.0, "gather"))
    for dtype, width in ((torch.bfloat16, 3), (torch.float32, 5), (torch.int64, 1), (torch.uint8, 7)):
        bits = torch.randint(0, 256, (4, width * dtype.itemsize), dtype=torch.uint8)
        everyone = [bits.roll(r).view(dtype)[: 2 + r] for r in range(2)]
        for mode in GatherMode:
            with gather.under(plan_for([2, 3], Topology(2), mode)) as plan:
                out = gather.gather(everyone[rank])
                for r, offset in enumerate(plan.rows.offsets):
                    got = out[offset : offset + 2 + r].contiguous()
                    assert torch.equal(got.view(torch.uint8), everyone[r].contiguous().view(torch.uint8))


def test_bits_are_carried_as_they_are() -> None:
    torch.manual_seed(3)
    run_ranks(_any_bits, 2)


def _misuse(rank: int) -> None:
    gather = DpGather(Collectives(dist.group.WORLD, 60.0, "gather"))
    plan = plan_for([2, 3], Topology(2), GatherMode.MAX_LEN)
    with pytest.raises(PlanError, match="no gather plan is in force"):
        gather.gather(torch.zeros(2 + rank, 4))
    with pytest.raises(ZeroDivisionError), gather.under(plan):
        raise ZeroDivisionError
    with pytest.raises(PlanError, match="no gather plan"):
        _ = gather.plan
    with gather.under(plan):
        with pytest.raises(PlanError, match="in force already"), gather.under(plan):
            pass
        assert gather.plan is plan
        calls = gather.gather, gather.combine, gather.join, gather.slice_replicated
        for call, rows in zip(calls, (4, 5, 1, 4), strict=True):
            with pytest.raises(PlanError, match=r"the plan for \[2, 3\] rows by max_len needs \["):
                call(torch.zeros(rows, 4))
        gather.gather(torch.zeros(2 + rank, 4))  # and the group still works
    for topology in (Topology(4), Topology(1, 2)):
        other = plan_for([1] * topology.dp_size, topology, GatherMode.MAX_LEN)
        with pytest.raises(PlanError, match="this gather has 2 ranks, 1 a replica"), gather.under(other):
            pass


def test_misuse_is_named_and_leaves_nothing_behind() -> None:
    run_ranks(_misuse, 2)


def _disagree(rank: int) -> None:
    ranks = Collectives(dist.group.WORLD, 60.0, "gather")
    for section, machine in (
        ({"mode": "variable" if rank == 2 else "planned"}, describe("h20", 3)),
        ({}, dataclasses.replace(describe("h20", 3), pad_byte_s=1e-9 if rank == 2 else 0.0)),
    ):
        others = [0, 1] if rank == 2 else [2]
        with pytest.raises(StartupError, match=rf"world ranks {re.escape(str(others))} have another dp_gather"):
            check_agreement(ranks, DpGatherConfig(**section), machine, torch.device("cpu"))
    check_agreement(ranks, DpGatherConfig(), None, torch.device("cpu"))


def test_ranks_that_would_plan_differently_are_named() -> None:
    run_ranks(_disagree, 3)


def _overlap(rank: int) -> None:
    """Rank 1 comes when the others have begun their pass, and all know all counts when they need them."""
    counts = OverlappedCounts(Collectives(dist.group.WORLD, 20.0, "counts"))
    begun = dist.distributed_c10d._get_default_store()
    for step in range(3):
        if rank == 1:
            begun.wait([f"begun {other} {step}" for other in (0, 2)], timedelta(seconds=15))
            time.sleep(0.5)
        padded = 8 + rank + step
        _, rows, mode = counts.counts_of_target_pass(padded - 3, False, None, num_tokens_padded=padded)
        begun.set(f"begun {rank} {step}", "")
        assert mode == 0
        assert int(rows[rank]) == padded
        if step:  # a pass may need no counts at all
            counts.wait()
            assert rows.tolist() == [8 + step, 9 + step, 10 + step]
    assert counts.stats.num_exchanges == 3 and (counts.stats.exchange_wait_s > 0.3) == (rank != 1)


def test_passes_begin_before_all_counts_are_there() -> None:
    run_ranks(_overlap, 3)


def _silent_replica(rank: int) -> None:
    counts = OverlappedCounts(Collectives(dist.group.WORLD, 2.0, "counts"))
    if rank == 1:
        time.sleep(8)
        return
    counts.counts_of_target_pass(1, False, None)
    with pytest.raises(CollectiveError, match=r"world ranks \[1\] are silent"):
        counts.wait()


def test_a_replica_without_counts_is_named() -> None:
    run_ranks(_silent_replica, 3)
