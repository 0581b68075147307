# SPDX-License-Identifier: Apache-2.0
"""Runs rank programs in which MoE dispatch and combine (MC2) are called wrongly, or not waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.emulator.hccl.moe import Batch, Ranks, check_dispatched


def _group_with_window(rank: int, window_mib: int) -> str:
    """Returns the name of a communicator of all ranks that is made with a window of its own."""
    import torch_npu

    options = torch_npu._C._distributed_c10d.ProcessGroupHCCL.Options()
    options.hccl_config = {"hccl_buffer_size": window_mib}
    group = dist.new_group(backend="hccl", pg_options=options)
    dist.all_reduce(torch.ones(1, device="npu"), group=group)
    name: str = group._get_backend(torch.device("npu")).get_hccl_comm_name(rank)
    return name


def refused(rank: int, num_ranks: int, folder: str) -> None:
    """Calls dispatch with what it must refuse at the call, each in words."""
    ranks = Ranks(rank, num_ranks, folder)
    batch = Batch(0, [4] * num_ranks, 8, 2, 32, torch.bfloat16)
    large = Batch(0, [512] * num_ranks, 64, 2, 8192, torch.bfloat16)
    medium = Batch(0, [64] * num_ranks, 32, 2, 1024, torch.bfloat16)  # needs 11 MiB
    many = Batch(0, [513] * num_ranks, 8, 2, 32, torch.bfloat16)
    wide = Batch(0, [4] * num_ranks, 32, 17, 32, torch.bfloat16)
    cases: list[tuple[str, Batch, dict[str, Any]]] = [
        ("moe_expert_num 9 is not divisible by the 2 ranks", batch, {"moe_expert_num": 9}),
        ("moe_expert_num 2048 is not in [1, 1024]", batch, {"moe_expert_num": 2048}),
        ("4 tokens exceed the 3 a rank that global_bs 6 allows", batch, {"global_bs": 6}),
        ("global_bs 9 is not divisible by the 2 ranks", batch, {"global_bs": 9}),
        ("513 tokens: BS must be in [1, 512]", many, {}),
        ("top 17 of 32 experts: K must be in [1, 16]", wide, {}),
        ("window of 200 MiB (HCCL_BUFFSIZE) is too small", large, {}),
        ("no live HCCL communicator has the name elsewhere", batch, {"group_ep": "elsewhere"}),
        ("ep_world_size 4, but communicator", batch, {"ep_world_size": 4}),
        ("quant_mode 3 is neither 0 nor 2", batch, {"quant_mode": 3}),
        ("x_active_mask must be bool, [4] or [4, 2]", batch, {"x_active_mask": torch.ones(3).bool().npu()}),
    ]
    cases.append(
        ("window of 7 MiB (HCCL_BUFFSIZE) is too small", medium, {"group_ep": _group_with_window(rank, 7)})
    )
    _check_refused(ranks, cases, batch)


def refused_on_an_a2(rank: int, num_ranks: int, folder: str) -> None:
    """Calls dispatch with what only an A2 refuses."""
    ranks = Ranks(rank, num_ranks, folder)
    batch = Batch(0, [4] * num_ranks, 2 * num_ranks, 2, 32, torch.bfloat16)
    many = Batch(0, [257] * num_ranks, 2 * num_ranks, 2, 32, torch.bfloat16)
    odd = Batch(0, [4] * num_ranks, 2 * num_ranks, 2, 48, torch.bfloat16)
    large = Batch(0, [64] * num_ranks, 8 * num_ranks, 8, 7168, torch.bfloat16)  # needs 228 MiB
    cases: list[tuple[str, Batch, dict[str, Any]]] = [
        ("tp_world_size 1 must be 0 on an A2", batch, {"group_tp": ranks.group, "tp_world_size": 1}),
        ("25 experts on a rank; an A2 has at most 24", batch, {"moe_expert_num": 25 * num_ranks}),
        ("257 tokens: BS must be in [1, 256]", many, {}),
        ("hidden size 48 is no multiple of 32", odd, {}),
        ("an A2 takes no x_active_mask of choices", batch, {"x_active_mask": torch.ones(4, 2).bool().npu()}),
        ("comm_alg 'hierarchy' is not emulated", batch, {"comm_alg": "hierarchy"}),
        ("expert_scales belong to an A2's hierarchical way", batch, {"expert_scales": torch.ones(4, 2).npu()}),
        ("window of 200 MiB (HCCL_BUFFSIZE) is too small", large, {}),
    ]
    _check_refused(ranks, cases, batch)


def refused_few_ranks(rank: int, num_ranks: int, folder: str) -> None:
    """Calls dispatch over fewer ranks than an A2 has for it, which ends without a group to go on with."""
    ranks = Ranks(rank, num_ranks, folder)
    batch = Batch(0, [4] * num_ranks, 8, 2, 32, torch.bfloat16)
    with pytest.raises(RuntimeError, match="ep_world_size 2 is none of 16, 32, 64, 128 and 256"):
        ranks.dispatch(batch)
    dist.destroy_process_group()


def _check_refused(ranks: Ranks, cases: list[tuple[str, Batch, dict[str, Any]]], batch: Batch) -> None:
    for words, given, changes in cases:
        try:
            ranks.dispatch(given, **changes)
        except RuntimeError as error:
            assert words in str(error), f"{words!r} is not in {error}"
        else:
            raise AssertionError(f"not refused: {words}")
    dispatched = ranks.dispatch(batch)  # nothing was issued in between
    check_dispatched(batch, ranks.rank, dispatched, totals=False)
    dist.destroy_process_group()


def _mixed_masks(ranks: Ranks) -> None:
    """Masks tokens where the ranks' numbers of tokens differ."""
    batch = Batch(0, [3, 5], 4, 2, 32, torch.bfloat16)
    ranks.dispatch(batch, x_active_mask=torch.arange(batch.num_tokens[ranks.rank]).lt(1).npu())


def _uneven_without_a_batch_size(ranks: Ranks) -> None:
    ranks.dispatch(Batch(0, [3, 5], 4, 2, 32, torch.bfloat16), global_bs=0)


def _hole_in_the_mask(ranks: Ranks) -> None:
    ranks.dispatch(Batch(0, [3, 3], 4, 2, 32, torch.bfloat16), x_active_mask=torch.tensor([1, 0, 1]).bool().npu())


def _expert_twice(ranks: Ranks) -> None:
    batch = Batch(0, [3, 3], 4, 2, 32, torch.bfloat16)
    ranks.dispatch(batch, expert_ids=torch.tensor([[1, 2], [3, 3], [0, 1]], dtype=torch.int32).npu())


def _another_mask_for_combine(ranks: Ranks) -> None:
    """The planted mistake: combine expects rows that dispatch, under its mask, did not send."""
    batch = Batch(0, [3, 3], 4, 2, 32, torch.bfloat16)
    dispatched = ranks.dispatch(batch, x_active_mask=torch.tensor([1, 1, 0]).bool().npu())
    ranks.combine(batch, dispatched[0], dispatched, x_active_mask=torch.tensor([1, 1, 1]).bool().npu())


def _late(ranks: Ranks) -> None:
    if ranks.rank == 1:
        time.sleep(5)
    ranks.dispatch(Batch(0, [3, 3], 4, 2, 32, torch.bfloat16))


FAULTS: dict[str, Callable[[Ranks], None]] = {
    "masks": _mixed_masks,
    "batch size": _uneven_without_a_batch_size,
    "hole": _hole_in_the_mask,
    "twice": _expert_twice,
    "combine": _another_mask_for_combine,
    "late": _late,
}


def fault(rank: int, num_ranks: int, folder: str, kind: str) -> None:
    """Runs into a fault that shows when the operator runs; the rank prints what it hears."""
    ranks = Ranks(rank, num_ranks, folder)
    torch.npu.synchronize()
    FAULTS[kind](ranks)
    torch.npu.synchronize()


def race(rank: int, num_ranks: int, folder: str, waits: bool) -> None:
    """Reads dispatched rows on another stream, with and without waiting for the dispatch."""
    from emulator import races

    ranks = Ranks(rank, num_ranks, folder)
    batch = Batch(0, [3] * num_ranks, 4, 2, 32, torch.bfloat16)
    side = torch.npu.Stream()
    torch.npu.synchronize()

    def read() -> None:
        dispatched = ranks.dispatch(batch)
        if waits:
            side.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(side):
            dispatched[3] + 1
        torch.npu.synchronize()

    if waits:
        read()
        assert not races.reports()
    else:
        with races.expect("aclnnMoeDistributeDispatchV2", r"aclnnAdds?\b", r"moe_faults\.py"):
            read()
    dist.destroy_process_group()
