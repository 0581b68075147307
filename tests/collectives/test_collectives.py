# SPDX-License-Identifier: Apache-2.0
import os
import random
import time

import pytest
import torch
import torch.distributed as dist

from tests.support.gloo_ranks import run_ranks
from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives

pytestmark = pytest.mark.distributed

DTYPES = [torch.float32, torch.bfloat16, torch.int32, torch.int64]


def _collectives(timeout_s=60.0):
    return Collectives(dist.group.WORLD, timeout_s, "test")


def _rows(rank, num_rows, dtype, width=3, seed=0):
    """Small integers, so that sums are exact in every dtype; any rank can compute any other's."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randint(0, 9, (num_rows, width), generator=generator).to(dtype)


def _ragged_cases(num_ranks):
    random.seed(num_ranks)
    cases = [[0] * num_ranks, [4] * num_ranks, [0] * (num_ranks - 1) + [5], [1] + [0] * (num_ranks - 1)]
    return cases + [[random.randint(0, 7) for _ in range(num_ranks)] for _ in range(25)]


def _ragged(rank, num_ranks):
    group = _collectives()
    for seed, sizes in enumerate(_ragged_cases(num_ranks)):
        dtype = DTYPES[seed % len(DTYPES)]
        everyone = [_rows(r, sizes[r], dtype, seed=seed) for r in range(num_ranks)]
        gathered = group.all_gather_rows(everyone[rank], sizes)
        assert gathered.dtype == dtype and torch.equal(gathered, torch.cat(everyone)), sizes
        dst = seed % num_ranks
        at_dst = group.gather_rows(everyone[rank], sizes, dst)
        assert (at_dst is None) == (rank != dst)
        assert at_dst is None or torch.equal(at_dst, torch.cat(everyone)), sizes
        inputs = [_rows(r, sum(sizes), dtype, seed=seed + 500) for r in range(num_ranks)]
        before = inputs[rank].clone()
        part = group.reduce_scatter_rows(inputs[rank], sizes)
        expected = torch.stack(inputs).sum(dim=0).to(dtype).split(sizes)[rank]
        assert part.dtype == dtype and torch.equal(part, expected), sizes
        assert torch.equal(inputs[rank], before)
        assert torch.equal(group.all_gather_variable(everyone[rank], sizes), torch.cat(everyone)), sizes
        part = group.reduce_scatter_variable(inputs[rank], sizes)
        assert part.dtype == dtype and torch.equal(part, expected), sizes
        assert torch.equal(inputs[rank], before)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ragged_rows(num_ranks):
    run_ranks(_ragged, num_ranks, num_ranks)


def _even(rank, num_ranks):
    group = _collectives()
    for dtype in DTYPES:
        everyone = [_rows(r, 2 * num_ranks, dtype) for r in range(num_ranks)]
        total = torch.stack(everyone).sum(dim=0).to(dtype)
        x = everyone[rank].clone()
        group.all_reduce_(x)
        assert torch.equal(x, total)
        strided = everyone[rank].t().contiguous().t()
        group.all_reduce_(strided)
        assert torch.equal(strided, total) and not strided.is_contiguous()
        out = torch.empty(2 * num_ranks * num_ranks, 3, dtype=dtype)
        group.all_gather_into(out, everyone[rank])
        assert torch.equal(out, torch.cat(everyone))
        part = torch.empty(2, 3, dtype=dtype)
        group.reduce_scatter_into(part, everyone[rank])
        assert torch.equal(part, total[2 * rank : 2 * rank + 2])
        assert torch.equal(group.all_gather_rows(everyone[rank], None), torch.cat(everyone))
        assert torch.equal(group.reduce_scatter_rows(everyone[rank], None), part)
        for source in range(num_ranks):
            x = everyone[rank].clone()
            group.broadcast_(x, source)
            assert torch.equal(x, everyone[source])
    with pytest.raises(ValueError, match=f"source {num_ranks} of {num_ranks}"):
        group.broadcast_(torch.ones(1), num_ranks)
    vector = torch.full((rank + 1,), float(rank))
    sizes = [r + 1 for r in range(num_ranks)]
    expected = [float(r) for r in range(num_ranks) for _ in range(r + 1)]
    assert group.all_gather_rows(vector, sizes).tolist() == expected


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_even_rows(num_ranks):
    run_ranks(_even, num_ranks, num_ranks)


def _traffic(rank):
    group = _collectives()
    group.all_reduce_(torch.ones(6, 4))
    group.all_reduce_(torch.ones(3, 4))
    group.all_gather_rows(torch.ones(rank, 4), [0, 1, 2])
    group.reduce_scatter_rows(torch.ones(3, 4), [1, 1, 1])
    group.gather_rows(torch.ones(2, 4), None, dst=1)
    group.all_gather_variable(torch.ones(rank, 4), [0, 1, 2])
    group.reduce_scatter_variable(torch.ones(3, 4), [0, 1, 2])
    group.broadcast_(torch.ones(2, 4), 2)
    counts = group.traffic()
    group.reset_traffic()
    return counts, group.traffic()


def test_traffic_is_counted():
    for rank, (counts, after_reset) in enumerate(run_ranks(_traffic, 3)):
        assert counts == {
            "all_reduce_": {"calls": 2, "rows": 9, "bytes": 2 * 2 * (96 + 48) // 3},
            "all_gather_rows": {"calls": 1, "rows": 2, "bytes": 2 * 32},
            "reduce_scatter_rows": {"calls": 1, "rows": 3, "bytes": 2 * 48 // 3},
            "gather_rows": {"calls": 1, "rows": 2, "bytes": 0 if rank == 1 else 32},
            "all_gather_variable": {"calls": 1, "rows": rank, "bytes": 2 * 16 * rank},
            "reduce_scatter_variable": {"calls": 1, "rows": 3, "bytes": 48 - 16 * rank},
            "broadcast_": {"calls": 1, "rows": 2, "bytes": 32 if rank == 2 else 0},
        }
        assert after_reset == {}


def _subgroup(rank):
    subgroup = dist.new_group([1, 2])  # collective over all ranks
    if rank == 0:
        return None
    group = Collectives(subgroup, 60.0, "sub")
    assert group.world_ranks == (1, 2) and group.rank == rank - 1
    return group.all_gather_rows(torch.full((rank, 1), rank), [1, 2]).flatten().tolist()


def test_subgroup_counts_ranks_from_zero():
    assert run_ranks(_subgroup, 3) == [None, [1, 2, 2], [1, 2, 2]]


def _alone(rank):
    group = _collectives()
    x = torch.arange(6.0).reshape(3, 2)
    expected = x.clone()
    group.all_reduce_(x)
    out = torch.empty(3, 2)
    group.all_gather_into(out, x)
    part = torch.empty(3, 2)
    group.reduce_scatter_into(part, x)
    results = [x, out, part, group.all_gather_rows(x, [3]), group.gather_rows(x, [3], 0)]
    results += [group.reduce_scatter_rows(x, [3]), group.all_gather_variable(x, [3])]
    results += [group.reduce_scatter_variable(x, [3])]
    assert all(torch.equal(result, expected) for result in results)
    return {op: (counts["calls"], counts["bytes"]) for op, counts in group.traffic().items()}


def test_one_rank_sends_nothing():
    (counts,) = run_ranks(_alone, 1)
    assert len(counts) == 8 and set(counts.values()) == {(1, 0)}


def _bad_arguments(rank):
    group = _collectives()
    x = torch.ones(2, 2)
    for sizes in ([2], [1, 1], [2, 2, 2], [2 + rank, -1]):
        with pytest.raises(ValueError, match="do not fit"):
            group.all_gather_rows(x, sizes)
        with pytest.raises(ValueError, match="do not fit"):
            group.all_gather_variable(x, sizes)
    with pytest.raises(ValueError, match="do not fit"):
        group.reduce_scatter_rows(x, [2, 2])
    with pytest.raises(ValueError, match="3 rows are not 2 equal parts"):
        group.reduce_scatter_rows(torch.ones(3, 2), None)
    with pytest.raises(ValueError, match="out has shape"):
        group.all_gather_into(torch.empty(3, 2), x)
    with pytest.raises(ValueError, match="x has shape"):
        group.reduce_scatter_into(torch.empty(2, 2), x)
    with pytest.raises(ValueError, match="dst=2"):
        group.gather_rows(x, None, 2)
    group.all_reduce_(x)  # the group still works
    return x.sum().item()


def test_bad_arguments_raise_before_anything_is_sent():
    assert run_ranks(_bad_arguments, 2) == [8.0, 8.0]


def _slice(rank, num_rows, seed):
    """Columns of a wider tensor, which is not contiguous."""
    return _rows(rank, num_rows, torch.float32, width=8, seed=seed)[:, 2:5]


def _take_slices(rank, num_ranks):
    """Every public operation, given slices of columns: right, or refused before anything is sent."""
    group = _collectives()
    everyone = [_slice(r, 2, 0) for r in range(num_ranks)]
    inputs = [_slice(r, 2 * num_ranks, 1) for r in range(num_ranks)]
    x, whole, sizes = everyone[rank], inputs[rank], [2] * num_ranks
    gathered, part = torch.cat(everyone), torch.stack(inputs).sum(dim=0).split(sizes)[rank]
    right = {
        "all_gather_rows": (lambda: group.all_gather_rows(x, sizes), gathered),
        "gather_rows": (lambda: group.gather_rows(x, sizes, 0), gathered if rank == 0 else None),
        "all_gather_variable": (lambda: group.all_gather_variable(x, sizes), gathered),
        "reduce_scatter_rows": (lambda: group.reduce_scatter_rows(whole, sizes), part),
        "reduce_scatter_variable": (lambda: group.reduce_scatter_variable(whole, sizes), part),
    }
    for name, (call, expected) in right.items():
        got = call()
        assert (got is None and expected is None) or torch.equal(got, expected), name
    dense, dense_whole = x.contiguous(), whole.contiguous()
    refused = {
        "begin_all_reduce_": [lambda: group.begin_all_reduce_(x)()],
        "broadcast_": [lambda: group.broadcast_(x, 0)],
        "all_gather_into": [
            lambda: group.all_gather_into(dense_whole, x),
            lambda: group.all_gather_into(whole, dense),
        ],
        "reduce_scatter_into": [
            lambda: group.reduce_scatter_into(dense, whole),
            lambda: group.reduce_scatter_into(x, dense_whole),
        ],
    }
    for name, calls in refused.items():
        for call in calls:
            with pytest.raises(ValueError, match=f"{name} of test needs contiguous tensors"):
                call()
    summed = torch.zeros(2, 8)[:, 2:5].copy_(x)
    group.all_reduce_(summed)
    assert torch.equal(summed, torch.stack(everyone).sum(dim=0)) and not summed.is_contiguous()
    operations = {name for name in vars(Collectives) if not name.startswith("_")}
    assert operations == {*right, *refused, "all_reduce_"}


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_slices_of_columns_are_right_or_refused(num_ranks):
    run_ranks(_take_slices, num_ranks, num_ranks)


def _last_rank_leaves(rank, num_ranks, timeout_s, dies):
    group = _collectives(timeout_s)
    x = torch.ones(4)
    group.all_reduce_(x)
    if rank == num_ranks - 1:
        if not dies:
            time.sleep(3 * timeout_s)  # it hangs
        os._exit(0)
    started = time.monotonic()
    with pytest.raises(CollectiveError) as error:
        group.all_reduce_(x)
    elapsed_s = time.monotonic() - started
    with pytest.raises(CollectiveError) as again:
        group.all_gather_rows(torch.ones(1, 1), None)
    assert again.value is error.value
    return str(error.value), error.value.silent_ranks, elapsed_s


@pytest.mark.parametrize(("num_ranks", "dies"), [(2, True), (3, True), (5, True), (2, False), (3, False)])
def test_survivors_name_the_rank_that_left_within_the_deadline(num_ranks, dies):
    timeout_s = 20.0 if dies else 4.0
    outcomes = run_ranks(_last_rank_leaves, num_ranks, num_ranks, timeout_s, dies)
    for rank, (message, silent_ranks, elapsed_s) in enumerate(outcomes[:-1]):
        assert silent_ranks == (num_ranks - 1,)
        assert message.startswith(
            f"all_reduce_ of group 'test' failed on world rank {rank} of {list(range(num_ranks))}, "
        )
        assert f"world ranks [{num_ranks - 1}] are silent" in message
        # the first survivor to reach the deadline reports it; another may learn from that report
        assert dies or "not finished within 4 s" in message or "it failed on world ranks" in message
        assert elapsed_s < (timeout_s if dies else 1.5 * timeout_s + 3)  # 3 s for a busy machine
    assert any("not finished within 4 s" in message for message, _, _ in outcomes[:-1]) == (not dies)
    assert outcomes[-1] is None
