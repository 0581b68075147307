# SPDX-License-Identifier: Apache-2.0
"""Measures how even a load is: over the experts of a layer, and over the ranks that hold them.

Shapes: L = layers, E = experts, R = ranks. A layer without load counts as perfectly even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Imbalance:
    """Holds the imbalance of each layer; tuples of length L.

    Attributes:
        max_over_mean: the busiest expert (or rank) over the average one: 1.0 is even, E (or R) is all on one.
        variation: standard deviation over mean (the coefficient of variation): 0.0 is even.
        total: routed tokens.
    """

    max_over_mean: tuple[float, ...]
    variation: tuple[float, ...]
    total: tuple[int, ...]

    @property
    def worst_layer(self) -> int:
        """Returns the layer with the highest `max_over_mean`; the first of equals."""
        return max(range(len(self.max_over_mean)), key=self.max_over_mean.__getitem__)


@dataclass(frozen=True, slots=True)
class HotExpert:
    """Describes one expert of one layer.

    Attributes:
        layer: index of the layer.
        expert: index of the expert.
        num_tokens: tokens routed to the expert.
        share: the expert's part of the layer's load; 1 / E where the load is even.
    """

    layer: int
    expert: int
    num_tokens: int
    share: float


def expert_imbalance(load_LE: torch.Tensor) -> Imbalance:
    """Returns the imbalance over the experts of each layer.

    Args:
        load_LE: ``[L, E]`` integers, not negative, on any device (copied to the host).

    Raises:
        ValueError: another shape or dtype, no layers or experts, or a negative load.
    """
    return _imbalance(_checked(load_LE))


def rank_imbalance(load_LE: torch.Tensor, num_ranks: int, expert_to_rank: torch.Tensor | None = None) -> Imbalance:
    """Returns the imbalance over the ranks of each layer; arguments and errors as in `rank_load`."""
    return _imbalance(rank_load(load_LE, num_ranks, expert_to_rank))


def rank_load(load_LE: torch.Tensor, num_ranks: int, expert_to_rank: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the load of each rank.

    Args:
        load_LE: the load, as in `expert_imbalance`.
        num_ranks: R, at least 1.
        expert_to_rank: ``[E]``, or ``[L, E]`` when layers differ, integers in ``[0, R)``; by default
            `contiguous_placement`.

    Returns:
        ``[L, R]`` int64 on the host.

    Raises:
        ValueError: as in `expert_imbalance`, or a placement of another shape or with other ranks.
    """
    load_LE = _checked(load_LE)
    num_layers, num_experts = load_LE.shape
    if num_ranks < 1:
        raise ValueError(f"num_ranks={num_ranks} is not positive")
    if expert_to_rank is None:
        expert_to_rank = contiguous_placement(num_experts, num_ranks)
    if tuple(expert_to_rank.shape) not in ((num_experts,), (num_layers, num_experts)):
        raise ValueError(
            f"expert_to_rank has shape {list(expert_to_rank.shape)}, not [{num_experts}] or "
            f"[{num_layers}, {num_experts}]"
        )
    rank_LE = expert_to_rank.cpu().long().expand(num_layers, num_experts)
    if rank_LE.min() < 0 or rank_LE.max() >= num_ranks:
        raise ValueError(f"expert_to_rank names ranks outside [0, {num_ranks})")
    return load_LE.new_zeros(num_layers, num_ranks).scatter_add_(1, rank_LE, load_LE)


def placed_imbalance(load_LE: torch.Tensor, physical_to_logical_LP: torch.Tensor, num_ranks: int) -> Imbalance:
    """Returns the imbalance over the ranks where experts may have several copies, which share their load evenly.

    Args:
        load_LE: the load, as in `expert_imbalance`.
        physical_to_logical_LP: ``[L, P]`` integers in ``[0, E)``; rank r holds the r-th of R equal parts of a row,
            or as `contiguous_placement` says when P is not a multiple of R.
        num_ranks: R, at least 1.

    Returns:
        As `rank_imbalance`; `total` is the load of all experts that have a copy.

    Raises:
        ValueError: as in `expert_imbalance`, or a placement of other layers or experts.
    """
    load_LE = _checked(load_LE)
    placed_LP = physical_to_logical_LP.cpu().long()
    num_layers, num_experts = load_LE.shape
    if placed_LP.dim() != 2 or placed_LP.shape[0] != num_layers or num_ranks < 1:
        raise ValueError(f"placement {list(placed_LP.shape)} does not fit load {list(load_LE.shape)}")
    if placed_LP.numel() and not 0 <= int(placed_LP.min()) <= int(placed_LP.max()) < num_experts:
        raise ValueError(f"the placement names experts outside [0, {num_experts})")
    copies_LE = torch.zeros_like(load_LE).scatter_add_(1, placed_LP, torch.ones_like(placed_LP))
    share_LP = (load_LE.double() / copies_LE.clamp_min(1)).gather(1, placed_LP)
    rank_P = contiguous_placement(placed_LP.shape[1], num_ranks)
    load_LR = torch.zeros(num_layers, num_ranks, dtype=torch.float64)
    return _imbalance(load_LR.index_add_(1, rank_P, share_LP))


def layer_groups(num_layers: int, max_groups: int) -> list[tuple[int, int]]:
    """Returns at most `max_groups` runs ``[begin, end)`` of consecutive layers, as even as possible, longer ones
    first."""
    sizes = contiguous_placement(num_layers, min(num_layers, max_groups)).bincount().tolist()
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def contiguous_placement(num_experts: int, num_ranks: int) -> torch.Tensor:
    """Returns ``[E]`` int64: consecutive experts on each rank, the first ``E mod R`` ranks holding one more.

    Source: vLLM 0.23.0 ``determine_expert_map`` with the linear placement strategy.
    """
    base, extra = divmod(num_experts, num_ranks)
    sizes_R = torch.tensor([base + (rank < extra) for rank in range(num_ranks)])
    return torch.repeat_interleave(torch.arange(num_ranks), sizes_R)


def top_experts(load_LE: torch.Tensor, count: int) -> tuple[HotExpert, ...]:
    """Returns the `count` busiest experts of all layers, busiest first; of equals, in order of layer and expert.

    Experts without load are never among them. Arguments and errors as in `expert_imbalance`.
    """
    load_LE = _checked(load_LE)
    totals = load_LE.sum(dim=1).tolist()
    flat = load_LE.flatten()
    order = torch.argsort(flat, descending=True, stable=True)[: max(count, 0)].tolist()
    hot = []
    for position in order:
        layer, expert = divmod(position, load_LE.shape[1])
        num_tokens = int(flat[position])
        if num_tokens:
            hot.append(HotExpert(layer, expert, num_tokens, num_tokens / totals[layer]))
    return tuple(hot)


def _checked(load_LE: torch.Tensor) -> torch.Tensor:
    if load_LE.dim() != 2 or 0 in load_LE.shape:
        raise ValueError(f"load has shape {list(load_LE.shape)}, not [layers, experts]")
    if load_LE.is_floating_point() or load_LE.is_complex() or load_LE.dtype == torch.bool:
        raise ValueError(f"load is {load_LE.dtype}, not integers")
    load_LE = load_LE.cpu().long()
    if load_LE.min() < 0:
        raise ValueError("load is negative")
    return load_LE


def _imbalance(load_LX: torch.Tensor) -> Imbalance:
    """Computes the imbalance of each row of a load ``[L, X]``, where X is experts or ranks."""
    total_L = load_LX.sum(dim=1)
    mean_L = load_LX.double().mean(dim=1)
    idle_L = total_L == 0
    divisor_L = torch.where(idle_L, 1.0, mean_L)
    max_over_mean_L = torch.where(idle_L, 1.0, load_LX.amax(dim=1) / divisor_L)
    variation_L = load_LX.double().std(dim=1, correction=0) / divisor_L
    totals = tuple(round(total) for total in total_L.tolist())
    return Imbalance(tuple(max_over_mean_L.tolist()), tuple(variation_L.tolist()), totals)


def can_gain(load_LRP: torch.Tensor, *, has_copies: bool = False) -> bool:
    """Returns whether another placement of experts might make the busiest rank of a layer less busy.

    It surely cannot where that rank has no more than its share, or, when each expert has one place, no more than
    the layer's busiest expert: in even and idle layers, above all.

    Args:
        load_LRP: ``[L, R, P]`` integers, the load of each place on each rank.
        has_copies: whether experts may have several places, by which also the busiest one can be divided.
    """
    load_LR = load_LRP.sum(dim=2)
    least_L = (load_LR.sum(dim=1) + load_LR.shape[1] - 1) // load_LR.shape[1]
    if not has_copies:
        least_L = torch.maximum(least_L, load_LRP.flatten(1).amax(dim=1))
    return bool((load_LR.amax(dim=1) > least_L).any())
