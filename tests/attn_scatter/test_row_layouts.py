# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ascend_ext.attn_scatter.row_layouts import (
    LayoutError,
    PartialSum,
    Replicated,
    RowShard,
    RowSplit,
    add,
    add_once,
    expect,
    own_rows,
)

SPLIT = RowSplit.even(5, 2)


def _rows(num_rows: int = 5) -> torch.Tensor:
    return torch.arange(1.0, 3 * num_rows + 1).reshape(num_rows, 3)


def _of(kind: type) -> Replicated | PartialSum | RowShard:
    if kind is RowShard:
        return RowShard(_rows(SPLIT.held(0)), "residual", SPLIT, 0)
    return kind(_rows(), "attention output")


@settings(deadline=None)
@given(num_rows=st.integers(0, 70), num_ranks=st.integers(1, 9), is_padded=st.booleans())
def test_even_split_covers_all_rows_in_order(num_rows: int, num_ranks: int, is_padded: bool) -> None:
    split = RowSplit.even(num_rows, num_ranks, is_padded=is_padded)
    assert split.num_rows == num_rows and split.num_ranks == num_ranks
    assert split.num_held - num_rows < num_ranks and (is_padded or split.num_held == num_rows)
    assert split.has_equal_shards == (len({split.held(rank) for rank in range(num_ranks)}) == 1)
    assert split.counts == tuple(sorted(split.counts, reverse=True))
    assert split.longest * num_ranks - num_rows < num_ranks
    whole = Replicated(_rows(num_rows), "batch")
    shards = [own_rows(whole, split, rank) for rank in range(num_ranks)]
    assert torch.equal(torch.cat([shard.tensor[: shard.num_own] for shard in shards]), whole.tensor)
    assert all(not shard.tensor[shard.num_own :].any() for shard in shards)


@settings(deadline=None)
@given(num_rows=st.integers(0, 40), num_ranks=st.integers(1, 9), is_padded=st.booleans())
def test_every_row_is_added_once(num_rows: int, num_ranks: int, is_padded: bool) -> None:
    split, rows = RowSplit.even(num_rows, num_ranks, is_padded=is_padded), _rows(num_rows)
    shards = [own_rows(Replicated(rows, "residual"), split, rank) for rank in range(num_ranks)]
    addends = [PartialSum(rows * rank, "output") for rank in range(num_ranks)]
    sums = [add_once(a, shard, "sum").tensor for a, shard in zip(addends, shards, strict=True)]
    assert torch.equal(torch.stack(sums).sum(0), rows * (1 + sum(range(num_ranks))))


@pytest.mark.parametrize("left", [Replicated, PartialSum, RowShard])
@pytest.mark.parametrize("right", [Replicated, PartialSum, RowShard])
def test_only_one_layout_adds_up_and_errors_name_both(left: type, right: type) -> None:
    a, b = _of(left), _of(right)
    if left is right:
        total = add(a, b, "sum")
        assert type(total) is left and torch.equal(total.tensor, 2 * a.tensor)
        return
    with pytest.raises(LayoutError) as error:
        add(a, b, "sum")
    assert str(a) in str(error.value) and str(b) in str(error.value)


def test_one_row_is_no_shard_of_one_row() -> None:
    """vLLM 0.32 takes a single row for a shard, for the counts are equal."""
    row, split = torch.ones(1, 3), RowSplit.even(1, 2)
    shard = RowShard(row, "shard", split, 1)
    assert shard.num_own == 0
    with pytest.raises(
        LayoutError, match=r"hidden \(replicated, 1 rows\).*shard \(shard of \[1, 0\] rows on rank 1\)"
    ):
        add(Replicated(row, "hidden"), shard, "sum")


def test_wrong_kinds_raise() -> None:
    partial, shard = _of(PartialSum), _of(RowShard)
    assert isinstance(shard, RowShard)
    with pytest.raises(
        LayoutError, match=r"final norm needs rows of kind Replicated, not attention output \(partial"
    ):
        expect(partial, Replicated, "the final norm")
    with pytest.raises(LayoutError, match="taking the own rows needs rows of kind Replicated, not attention"):
        own_rows(partial, SPLIT, 0)
    with pytest.raises(LayoutError, match="needs rows of kind PartialSum, not attention output"):
        add_once(_of(Replicated), shard, "sum")
    other = RowShard(_rows(3), "residual", RowSplit.even(6, 2), 0)
    with pytest.raises(LayoutError, match="cannot add residual .*5, not|not the rows of one batch"):
        add_once(partial, other, "sum")
    with pytest.raises(LayoutError, match="cannot add"):
        add(shard, other, "sum")
    with pytest.raises(LayoutError, match="are not a shard of"):
        RowShard(_rows(2), "residual", SPLIT, 0)
    with pytest.raises(ValueError, match="are not the rows of each rank"):
        RowSplit((3, -1))


def test_padded_and_unpadded_shards_are_two_layouts() -> None:
    """On rank 0, which has no padding, their tensors look the same."""
    unpadded = RowSplit.even(5, 2, is_padded=False)
    left, right = RowShard(_rows(3), "output", SPLIT, 0), RowShard(_rows(3), "residual", unpadded, 0)
    with pytest.raises(
        LayoutError, match=r"cannot add output .*on rank 0\) and residual .*on rank 0, unpadded\) to sum"
    ):
        add(left, right, "sum")
    with pytest.raises(LayoutError, match="3 rows on rank 1 are not a shard of"):
        RowShard(_rows(3), "residual", unpadded, 1)
