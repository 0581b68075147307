# SPDX-License-Identifier: Apache-2.0
"""Runs one expert layer over several ranks under a plan, and the same in one process: for Gloo and for HCCL."""

from __future__ import annotations

import random

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.dp_gather.exchange import DpGather
from vllm_ascend_ext.dp_gather.plan import GatherPlan, make_plan
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology

HIDDEN, TOP_K, EXPERTS = 12, 2, 8
NUM_DRAFTS = 2


def forward_modes(dp_size: int) -> dict[str, list[int]]:
    """Returns the rows of the replicas in every mode of a forward pass and every skew."""
    chance = random.Random(dp_size)
    requests = [chance.randint(1, 9) for _ in range(dp_size)]
    return {
        "decode, balanced": [8] * dp_size,
        "decode": requests,
        "prefill, odd": [2 * chance.randint(1, 60) + 1 for _ in range(dp_size)],
        "prefill, one long": [1] * (dp_size - 1) + [257],
        "mixed": [count if replica % 2 else 50 + count for replica, count in enumerate(requests)],
        "one idle": [0, *requests[1:]],
        "one busy": [3] + [0] * (dp_size - 1),
        "all idle": [0] * dp_size,
        "MTP verify": [count * (NUM_DRAFTS + 1) for count in requests],
        "MTP draft": requests,
    }


def topologies(num_ranks: int) -> list[Topology]:
    """Returns all ways to split the ranks into replicas."""
    return [Topology(num_ranks // tp, tp) for tp in range(1, num_ranks + 1) if num_ranks % tp == 0]


def replica_input(replica: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns hidden states ``[C, H]`` float32 and expert ids ``[C, K]`` int64, the same wherever they are
    computed."""
    generator = torch.Generator().manual_seed(1 + 1000 * replica + count)
    hidden_CH = torch.randn(count, HIDDEN, generator=generator)
    hidden_CH[::3, 0] = -0.0
    return hidden_CH, torch.randint(0, EXPERTS, (count, TOP_K), generator=generator)


def expert_weights() -> torch.Tensor:
    """Returns the experts' weights ``[E, H, H]`` float32."""
    return torch.randn(EXPERTS, HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(0))


def experts(
    hidden_NH: torch.Tensor, ids_NK: torch.Tensor, weights_EHH: torch.Tensor, own: set[int]
) -> torch.Tensor:
    """Returns what the experts in `own` add to each row; an id that is in none adds nothing."""
    out_NH = torch.zeros_like(hidden_NH)
    for expert in sorted(own):
        times_N = (ids_NK == expert).sum(dim=1).to(hidden_NH.dtype)
        out_NH += (hidden_NH @ weights_EHH[expert]) * times_N.unsqueeze(1)
    return out_NH


def reference(replica: int, count: int) -> torch.Tensor:
    """Computes the layer on the replica's rows alone, in float64."""
    hidden_CH, ids_CK = replica_input(replica, count)
    return experts(hidden_CH.double(), ids_CK, expert_weights().double(), set(range(EXPERTS)))


def plan_for(counts: list[int], topology: Topology, mode: GatherMode) -> GatherPlan:
    """Returns the plan of what `run_layer` exchanges."""
    return make_plan(counts, topology, RowWidths((HIDDEN * 4, TOP_K * 8), HIDDEN * 4), mode=mode)


def run_layer(
    group: Collectives, attn_tp: Collectives | None, plan: GatherPlan, *, partial: bool, device: str = "cpu"
) -> None:
    """Runs one layer under `plan` on this rank; raises AssertionError where it differs from a single process.

    partial: the layer's input is a sum owed among the attention-TP ranks, otherwise all of them hold it.
    """
    rank, tp_size = group.rank, plan.topology.attn_tp_size
    replica, tp_rank = divmod(rank, tp_size)
    hidden_CH, ids_CK = (x.to(device) for x in replica_input(replica, plan.counts[replica]))
    given_CH = hidden_CH * (tp_rank + 1) if partial else hidden_CH.clone()
    before_CH = given_CH.clone()
    gather = DpGather(group, attn_tp)
    group.reset_traffic()
    with gather.under(plan):
        own_SH = gather.reduce_partial(given_CH) if partial else gather.slice_replicated(given_CH)
        own_ids_SK = gather.slice_replicated(ids_CK)
        held = own_SH.clone(), own_ids_SK.clone()
        hidden_NH, ids_NK = gather.gather(own_SH), gather.gather(own_ids_SK, fill=-1)
        dense = gather.drop_padding(hidden_NH)
        assert dense.shape[0] == sum(plan.counts)
        assert torch.equal(gather.restore_padding(dense), hidden_NH)
        check_gathered(plan, hidden_NH.cpu(), ids_NK.cpu(), scale=sum(range(tp_size + 1)) if partial else 1)
        own_experts = set(range(rank, EXPERTS, group.num_ranks))
        addend_NH = experts(hidden_NH, ids_NK, expert_weights().to(device), own_experts)
        addend_before = addend_NH.clone()
        out_CH = gather.join(gather.combine(addend_NH))
    assert torch.equal(given_CH, before_CH), "the input was changed"
    assert torch.equal(own_SH, held[0]) and torch.equal(own_ids_SK, held[1]), "a part was changed"
    assert torch.equal(addend_NH, addend_before), "the experts' output was changed"
    check_traffic(group, plan)
    expected = reference(replica, plan.counts[replica]) * (sum(range(tp_size + 1)) if partial else 1)
    error = (out_CH.cpu().double() - expected).abs().max().item() if len(expected) else 0.0
    scale = expected.abs().max().item() if len(expected) else 1.0
    assert error <= 1e-6 * scale, f"{plan.counts} {plan.mode}: {error / scale:.2e}"


def check_gathered(plan: GatherPlan, hidden_NH: torch.Tensor, ids_NK: torch.Tensor, scale: int) -> None:
    """Checks that every real row is there once and in its place, bit by bit unless it was summed; padding zero and
    nowhere routed."""
    inputs = [replica_input(replica, count) for replica, count in enumerate(plan.counts)]
    real = torch.ones(plan.rows.num_rows, dtype=torch.bool)
    for begin, end in plan.rows.pad_spans():
        real[begin:end] = False
    hidden, ids = torch.cat([x for x, _ in inputs]), torch.cat([x for _, x in inputs])
    assert torch.equal(ids_NK[real], ids) and bool((ids_NK[~real] == -1).all())
    if scale == 1:
        assert torch.equal(hidden_NH[real].view(torch.int32), hidden.view(torch.int32))
    else:
        torch.testing.assert_close(hidden_NH[real], hidden * scale)
    assert bool((hidden_NH[~real] == 0).all())


def check_traffic(group: Collectives, plan: GatherPlan) -> None:
    """Checks that the group sent what the plan says, to the byte."""
    calls = {
        GatherMode.MAX_LEN: ("all_gather_into", "reduce_scatter_into"),
        GatherMode.SUM_LEN: ("all_reduce_", "all_reduce_"),
        GatherMode.VARIABLE: ("all_gather_variable", "reduce_scatter_variable"),
    }
    traffic = group.traffic()
    assert set(traffic) == set(calls[plan.mode]), traffic
    sent = sum(counts["bytes"] for counts in traffic.values())
    assert sent == plan.chosen.cost.sent[group.rank], (plan.counts, plan.mode, traffic)
