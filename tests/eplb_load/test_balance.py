# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.eplb_load.balance import (
    HotExpert,
    can_gain,
    contiguous_placement,
    expert_imbalance,
    layer_groups,
    placed_imbalance,
    rank_imbalance,
    rank_load,
    top_experts,
)

LOADS = st.tuples(st.integers(1, 4), st.integers(1, 9)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 10**6), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


def test_known_numbers():
    load = torch.tensor([[2, 2, 2, 2], [8, 0, 0, 0], [1, 3, 1, 3], [0, 0, 0, 0]], dtype=torch.int32)
    imbalance = expert_imbalance(load)
    assert imbalance.max_over_mean == (1.0, 4.0, 1.5, 1.0)
    assert imbalance.variation == pytest.approx((0.0, math.sqrt(3), 0.5, 0.0))
    assert imbalance.total == (8, 8, 8, 0)
    assert imbalance.worst_layer == 1


def test_rank_numbers_depend_on_the_placement():
    load = torch.tensor([[5, 5, 1, 1]])
    assert rank_imbalance(load, 2).max_over_mean == (10 / 6,)
    assert rank_imbalance(load, 2, torch.tensor([0, 1, 0, 1])).max_over_mean == (1.0,)


def test_placement_may_differ_between_layers():
    load = torch.tensor([[5, 5, 1, 1], [5, 5, 1, 1]])
    placement = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
    assert rank_load(load, 2, placement).tolist() == [[6, 6], [10, 2]]


def test_rank_without_experts_counts_as_idle():
    assert rank_load(torch.tensor([[3, 4]]), 3).tolist() == [[3, 4, 0]]


def test_contiguous_placement_gives_the_first_ranks_one_more():
    assert contiguous_placement(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert contiguous_placement(6, 3).tolist() == [0, 0, 1, 1, 2, 2]


@given(LOADS, st.integers(1, 5))
def test_invariants(rows, num_ranks):
    load = torch.tensor(rows)
    assert rank_load(load, num_ranks).sum(dim=1).tolist() == load.sum(dim=1).tolist()
    for imbalance, width in (
        (expert_imbalance(load), load.shape[1]),
        (rank_imbalance(load, num_ranks), num_ranks),
    ):
        assert imbalance.total == tuple(sum(row) for row in rows)
        for ratio, variation in zip(imbalance.max_over_mean, imbalance.variation, strict=True):
            assert 1.0 - 1e-12 <= ratio <= width + 1e-9
            assert 0.0 <= variation <= math.sqrt(width) + 1e-9


def test_top_experts_orders_ties_and_leaves_out_idle_ones():
    load = torch.tensor([[0, 3, 7], [7, 0, 0]])
    assert top_experts(load, 10) == (
        HotExpert(0, 2, 7, 0.7),
        HotExpert(1, 0, 7, 1.0),
        HotExpert(0, 1, 3, 0.3),
    )
    assert top_experts(load, 1) == (HotExpert(0, 2, 7, 0.7),)
    assert top_experts(load, 0) == ()


@pytest.mark.parametrize(
    "load",
    [
        torch.zeros(4, dtype=torch.int32),
        torch.zeros(0, 4, dtype=torch.int32),
        torch.zeros(2, 2),
        -torch.eye(2).int(),
    ],
)
def test_bad_load(load):
    with pytest.raises(ValueError, match="load"):
        expert_imbalance(load)


@pytest.mark.parametrize("placement", [torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.tensor([-1, 0])])
def test_bad_placement(placement):
    with pytest.raises(ValueError, match="expert_to_rank"):
        rank_load(torch.tensor([[1, 2]]), 2, placement)


def test_copies_share_their_load_evenly():
    load = torch.tensor([[8, 2, 2, 0]])
    placement = torch.tensor([[0, 1, 0, 0, 2, 3]])  # expert 0 has three copies, two of them on rank 1
    imbalance = placed_imbalance(load, placement, 2)
    share = 8 / 3
    ranks = [share + 2 + share, share + 2 + 0]
    assert imbalance.max_over_mean[0] == pytest.approx(max(ranks) / 6)
    assert imbalance.total == (12,)


def test_placement_without_copies_is_that_of_rank_imbalance():
    load = torch.randint(0, 50, (3, 10))
    placement = torch.arange(10).expand(3, -1)
    for num_ranks in (1, 2, 3, 4):
        assert placed_imbalance(load, placement, num_ranks).max_over_mean == pytest.approx(
            rank_imbalance(load, num_ranks).max_over_mean
        )


@pytest.mark.parametrize("placement", [torch.zeros(2, 4).long(), torch.tensor([[0, 4]]), torch.tensor([[-1]])])
def test_placement_that_does_not_fit(placement):
    with pytest.raises(ValueError, match="placement"):
        placed_imbalance(torch.ones(1, 4).long(), placement, 1)


@pytest.mark.parametrize(
    ("num_layers", "expected"),
    [(1, [(0, 1)]), (2, [(0, 1), (1, 2)]), (7, [(0, 3), (3, 5), (5, 7)]), (9, [(0, 3), (3, 6), (6, 9)])],
)
def test_layer_groups_cover_all_layers(num_layers, expected):
    assert layer_groups(num_layers, 3) == expected


def test_a_hot_expert_can_be_divided_where_experts_have_copies() -> None:
    loads = torch.tensor([[[9, 0], [1, 1]]])
    assert can_gain(loads, has_copies=True) and not can_gain(loads)
    assert not can_gain(torch.tensor([[[5, 5], [5, 5]]]), has_copies=True)


@pytest.mark.parametrize(
    ("load_LRP", "gains"),
    [
        ([[[5, 5], [5, 5]]], False),  # even
        ([[[0, 0], [0, 0]], [[5, 5], [4, 6]]], False),  # idle, and even by ranks
        ([[[3, 3], [3, 2]]], False),  # as even as 11 rows can be
        ([[[9, 0], [1, 1]]], False),  # one expert is hotter than everything else
        ([[[6, 6], [1, 1]]], True),
        ([[[0, 0], [0, 0]], [[5, 5], [5, 5]], [[6, 6], [1, 1]]], True),  # one layer of three
    ],
)
def test_a_window_that_cannot_gain_is_one_that_no_placement_spreads_better(
    load_LRP: list[list[list[int]]], gains: bool
) -> None:
    loads = torch.tensor(load_LRP)
    assert can_gain(loads) == gains
    _, num_ranks, num_places = loads.shape
    better = False
    for layer in loads:
        now = int(layer.sum(dim=1).max())
        for order in itertools.permutations(layer.flatten().tolist()):
            ranks = [sum(order[rank * num_places :][:num_places]) for rank in range(num_ranks)]
            better |= max(ranks) < now
    assert better == gains
