# SPDX-License-Identifier: Apache-2.0
"""Runs rank programs of MoE dispatch and combine (MC2) against what one process computes from all ranks' inputs.

T tokens of a rank, K experts a token, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.emulator.hccl.launch import process_group
from tests.emulator.hccl.values import check

MASKS = ("none", "tokens", "choices")


@dataclass
class Batch:
    """Holds every rank's tokens, the same on all ranks: drawn from one seed."""

    seed: int
    num_tokens: list[int]
    num_experts: int
    top_k: int
    hidden: int
    dtype: torch.dtype
    mask: str = "none"
    x: list[Tensor] = field(init=False)  # [T, H] of each rank
    ids: list[Tensor] = field(init=False)  # [T, K], no expert twice in a row
    weights: list[Tensor] = field(init=False)  # [T, K]
    active: list[Tensor] = field(init=False)  # [T, K]

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        self.x, self.ids, self.weights, self.active = [], [], [], []
        for tokens in self.num_tokens:
            self.x.append(torch.randn(tokens, self.hidden, generator=draw).to(self.dtype))
            self.ids.append(
                torch.rand(tokens, self.num_experts, generator=draw).argsort(-1)[:, : self.top_k].int()
            )
            self.weights.append(torch.rand(tokens, self.top_k, generator=draw))
            active = torch.ones(tokens, self.top_k, dtype=torch.bool)
            if self.mask == "tokens":
                active[int(torch.randint(tokens + 1, (1,), generator=draw)) :] = False
            elif self.mask == "choices":
                active = torch.rand(tokens, self.top_k, generator=draw) < 0.6
            self.active.append(active)

    @property
    def num_ranks(self) -> int:
        return len(self.num_tokens)

    @property
    def num_local(self) -> int:
        return self.num_experts // self.num_ranks

    @property
    def global_bs(self) -> int:
        """Returns 0, as for even numbers of tokens, or the greatest number times the ranks."""
        return 0 if len(set(self.num_tokens)) == 1 else max(self.num_tokens) * self.num_ranks

    def given_mask(self, rank: int) -> Tensor | None:
        if self.mask == "none":
            return None
        return self.active[rank][:, 0].contiguous() if self.mask == "tokens" else self.active[rank]

    def received(self, rank: int) -> list[tuple[int, int, int]]:
        """Returns (expert, source rank, token) of each row that `rank` gets, in its order."""
        return sorted(
            (expert, source, token)
            for source, ids in enumerate(self.ids)
            for token, row in enumerate(ids.tolist())
            for choice, expert in enumerate(row)
            if bool(self.active[source][token, choice]) and expert // self.num_local == rank
        )


def expert(rows: Tensor, number: int) -> Tensor:
    """Stands for an expert: tells its number in every row."""
    return rows * (number + 1) - number


class Inputs:
    """Holds one rank's part of a batch on its device."""

    def __init__(self, batch: Batch, rank: int) -> None:
        mask = batch.given_mask(rank)
        self.x, self.ids, self.weights = batch.x[rank].npu(), batch.ids[rank].npu(), batch.weights[rank].npu()
        self.mask = None if mask is None else mask.npu()


class Ranks:
    """Calls dispatch and combine on this rank, with other arguments where `changes` has them."""

    def __init__(self, rank: int, num_ranks: int, folder: str) -> None:
        process_group(rank, num_ranks, folder)
        dist.barrier()
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("npu"))
        self.rank, self.num_ranks, self.group = rank, num_ranks, backend.get_hccl_comm_name(rank)
        self.is_a2 = torch.npu.get_device_name().startswith("Ascend910B")

    @property
    def masks(self) -> tuple[str, ...]:
        """Returns the kinds of masks that the operators take: on an A2 none of choices."""
        return MASKS[:2] if self.is_a2 else MASKS

    def _common(self, batch: Batch, inputs: Inputs) -> dict[str, Any]:
        return {
            "expert_ids": inputs.ids, "group_ep": self.group, "ep_world_size": self.num_ranks,
            "ep_rank_id": self.rank, "moe_expert_num": batch.num_experts, "global_bs": batch.global_bs,
            "x_active_mask": inputs.mask,
            **({} if self.is_a2 else {"group_tp": self.group, "tp_world_size": 1}),
        }  # fmt: skip

    def dispatch(self, batch: Batch, inputs: Inputs | None = None, **changes: Any) -> tuple[Tensor, ...]:
        inputs = inputs or Inputs(batch, self.rank)
        given = self._common(batch, inputs) | {"x": inputs.x} | changes
        return tuple(torch.ops.npu.npu_moe_distribute_dispatch_v2(**given))

    def combine(
        self,
        batch: Batch,
        rows: Tensor,
        dispatched: tuple[Tensor, ...],
        inputs: Inputs | None = None,
        **changes: Any,
    ) -> Tensor:
        inputs = inputs or Inputs(batch, self.rank)
        given = self._common(batch, inputs) | {
            "expand_x": rows, "assist_info_for_combine": dispatched[2], "ep_send_counts": dispatched[4],
            "tp_send_counts": dispatched[5], "expert_scales": inputs.weights,
        }  # fmt: skip
        result: Tensor = torch.ops.npu.npu_moe_distribute_combine_v2(**given | changes)
        return result


def check_dispatched(batch: Batch, rank: int, dispatched: tuple[Tensor, ...], totals: bool) -> Tensor:
    """Compares bitwise what this rank got, and returns it as its experts leave it, [A, H]."""
    rows, _, _, counts, recv_counts = dispatched[:5]
    expected = batch.received(rank)
    values = [batch.x[source][token] for _, source, token in expected]
    whole = torch.stack(values) if values else torch.empty(0, batch.hidden, dtype=batch.dtype)
    check("rows", rows[: len(expected)], whole)
    pairs = [[0] * batch.num_ranks for _ in range(batch.num_local)]
    for number, source, _ in expected:
        pairs[number - rank * batch.num_local][source] += 1
    per_expert = torch.tensor([sum(row) for row in pairs])
    check("counts", counts, per_expert.cumsum(0) if totals else per_expert)
    check("received", recv_counts, torch.tensor(pairs).flatten().cumsum(0).int())
    out = torch.full_like(rows, torch.nan)  # the rows behind the last are nobody's
    for place, (number, _, _) in enumerate(expected):
        out[place] = expert(rows[place], number)
    return out


def check_combined(batch: Batch, rank: int, combined: Tensor, shared: Tensor | None = None) -> None:
    """Compares with float64, where a token has an active choice; the other rows are not written."""
    ids, active = batch.ids[rank], batch.active[rank]
    expected = torch.zeros(combined.shape, dtype=torch.float64) if shared is None else shared.double()
    for token, choice in active.nonzero().tolist():
        row = expert(batch.x[rank][token], int(ids[token, choice])).double()
        expected[token] += batch.weights[rank][token, choice].double() * row
    some = active.any(1)
    tolerance = torch.finfo(batch.dtype).eps
    torch.testing.assert_close(combined.cpu().double()[some], expected[some], rtol=tolerance, atol=tolerance)


def values(rank: int, num_ranks: int, folder: str, dtype: str) -> None:
    """Compares even and uneven batches, masks of tokens and of choices, counts and running totals."""
    ranks = Ranks(rank, num_ranks, folder)
    for seed in range(6):
        draw = torch.Generator().manual_seed(100 + seed)
        even = int(torch.randint(1, 9, (1,), generator=draw))
        uneven = torch.randint(1, 9, (num_ranks,), generator=draw).tolist()
        for tokens, mask in [([even] * num_ranks, mask) for mask in ranks.masks] + [(uneven, "none")]:
            batch = Batch(seed, tokens, 4 * num_ranks, 1 + seed % 4, 32, getattr(torch, dtype), mask)
            dispatched = ranks.dispatch(batch, expert_token_nums_type=seed % 2)
            rows = check_dispatched(batch, rank, dispatched, totals=seed % 2 == 0)
            shared = torch.randn(tokens[rank], 32).to(batch.dtype) if seed % 3 == 0 else None
            more = {} if shared is None else {"shared_expert_x": shared.npu()}
            check_combined(batch, rank, ranks.combine(batch, rows, dispatched, **more), shared)
    dist.destroy_process_group()


def quantised(rank: int, num_ranks: int, folder: str, scaled: bool) -> None:
    """Compares int8 rows bitwise, and their scales, with the documented formula."""
    ranks = Ranks(rank, num_ranks, folder)
    batch = Batch(5, [7] * num_ranks, 2 * num_ranks, 2, 64, torch.bfloat16, "tokens")
    batch.x[0][0] = 0  # a row without a scale
    smooth = torch.rand(batch.num_experts, 64) + 0.5
    rows, scales, *_ = ranks.dispatch(batch, quant_mode=2, scales=smooth.npu() if scaled else None)
    assert rows.dtype == torch.int8
    for place, (number, source, token) in enumerate(batch.received(rank)):
        row = batch.x[source][token].float() * (smooth[number] if scaled else 1)
        factor = torch.tensor(127.0).div(row.abs().max())  # `127.0 / tensor` rounds twice
        expected = torch.zeros_like(row) if factor.isinf() else (row * factor).round()
        check("int8 row", rows[place], expected.to(torch.int8))
        check("scale", scales[place], torch.tensor(1.0).div(factor))
    dist.destroy_process_group()


def graph(rank: int, num_ranks: int, folder: str) -> None:
    """Replays a captured dispatch and combine with new tokens, ids and masks in the same buffers."""
    ranks = Ranks(rank, num_ranks, folder)
    batches = [Batch(seed, [5] * num_ranks, 2 * num_ranks, 2, 32, torch.bfloat16, "tokens") for seed in range(4)]
    first, inputs = batches[0], Inputs(batches[0], rank)
    recorded = torch.npu.NPUGraph()
    torch.npu.synchronize()
    with torch.npu.graph(recorded):
        dispatched = ranks.dispatch(first, inputs)
        combined = ranks.combine(first, dispatched[0] + 0, dispatched, inputs)
    for batch in batches[1:]:
        for buffer, value in ((inputs.x, batch.x), (inputs.ids, batch.ids), (inputs.weights, batch.weights)):
            buffer.copy_(value[rank])
        assert inputs.mask is not None
        inputs.mask.copy_(batch.given_mask(rank))
        recorded.replay()
        check_dispatched(batch, rank, dispatched, totals=False)
        some = batch.active[rank].any(1)
        expected = batch.x[rank].double() * batch.weights[rank].double().sum(1, keepdim=True)
        torch.testing.assert_close(combined.cpu().double()[some], expected[some], rtol=8e-3, atol=8e-3)
    dist.destroy_process_group()
