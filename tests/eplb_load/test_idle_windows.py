# SPDX-License-Identifier: Apache-2.0
"""What vllm-ascend's policies make of even and idle windows, and that ours asks them for none of these."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_ascend_ext.integration.eplb_load import rebalance_limits

pytestmark = pytest.mark.emulator

INTERVAL, ALGORITHM, LAYERS, LEAD = 4, 2, 1, 1
PLACED = [[[0, 1], [2, 3]]]  # experts [L][rank][place]
MAPS = torch.tensor([[[0, 1, -1, -1], [-1, -1, 0, 1]]])  # places [L][rank][E]
EVEN, IDLE, SKEWED = [5, 5, 5, 5], [0, 0, 0, 0], [9, 9, 1, 1]


def cycles(windows: list[list[int]], policy: int) -> tuple[list[int], int, int]:
    """Runs our updator without a model for one cycle a window.

    Returns:
        The windows that woke the policy, how many were counted as without gain, and all steps.
    """
    from vllm_ascend_ext.integration.eplb_load.ascend_eplb import EplbUpdatorWithOurLoads

    woken: list[int] = []
    seen: list[int] = []
    without_gain: list[int] = []

    def window(begin: int, end: int) -> list[torch.Tensor]:
        seen.append(end - begin)
        return [torch.tensor([windows[len(seen) - 1]])]

    updator: Any = object.__new__(EplbUpdatorWithOurLoads)
    steps = SimpleNamespace(number=0)
    updator._collected = SimpleNamespace(
        window=window,
        mark=lambda: steps.number + 1,
        has_ended=lambda step: step <= steps.number,
        note_no_gain=lambda: without_gain.append(len(seen) - 1),
    )
    updator._lead, updator._rows = LEAD, {"layer": (0, 0)}
    updator.cur_iterations, updator.num_moe_layers = 0, LAYERS
    updator.expert_heat_collection_interval, updator.algorithm_execution_interval = INTERVAL, ALGORITHM
    updator.expert_map_record_path, updator.multi_stage = None, policy == 3
    updator.shared_dict = {"expert_maps": MAPS}
    updator.adaptor = SimpleNamespace(
        moe_layers=[SimpleNamespace(layer_name="layer")], clear_all_moe_loads=lambda: None
    )
    queue = SimpleNamespace(put=lambda _: woken.append(len(seen) - 1))
    updator.eplb_process = SimpleNamespace(planner_q=queue)
    updator.eplb_loader = SimpleNamespace(update_expert_map_and_weight=lambda reqs: None)
    updator.reqs = []
    while len(seen) < len(windows) or updator.cur_iterations:
        updator.forward_end()
        steps.number += 1
    assert all(0 < length <= INTERVAL for length in seen)  # each begins where a cycle begins
    return woken, len(without_gain), steps.number


@pytest.mark.parametrize("policy", [1, 2])
def test_only_windows_that_can_gain_wake_the_policy(policy: int) -> None:
    windows = [EVEN, SKEWED, IDLE, IDLE, SKEWED, EVEN]
    woken, without_gain, steps = cycles(windows, policy)
    assert woken == [1, 4] and without_gain == 4
    assert steps == 4 * INTERVAL + 2 * (INTERVAL + ALGORITHM + LAYERS)  # the next cycle begins at once


@pytest.mark.parametrize("load", [EVEN, IDLE])
def test_policy_1_itself_moves_experts_for_nothing(load: list[int]) -> None:
    """When this fails, vllm-ascend has mended it, and our window that asks nobody can go."""
    from vllm_ascend.eplb.core.policy.policy_factory import PolicyFactory

    loads = torch.tensor(load).reshape(1, 2, 2)
    changed, _, placed = PolicyFactory.generate_policy(1).rebalance_experts(torch.tensor(PLACED), loads)
    assert torch.as_tensor(placed).tolist() != PLACED and not changed


@pytest.mark.parametrize(("policy", "ranks", "is_refused"), [(0, 3, True), (0, 4, False), (1, 2, False)])
def test_policy_0_needs_four_ranks(
    policy: int, ranks: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer its process ends by an IndexError."""
    from vllm_ascend.eplb.core.policy.policy_factory import PolicyFactory

    settings = SimpleNamespace(eplb_policy_type=policy)
    monkeypatch.setattr(rebalance_limits, "_eplb_config", lambda deployment: settings)
    parallel = SimpleNamespace(tensor_parallel_size=ranks, data_parallel_size=1, prefill_context_parallel_size=1)
    (rule,) = [rule for rule in rebalance_limits.ASCEND_RULES if "policy 0" in rule.why]
    on = SimpleNamespace(config=SimpleNamespace(eplb_load=SimpleNamespace(rebalance=True)), parallel=parallel)
    assert bool(rule.refuses(on)) == is_refused
    table = torch.arange(2 * ranks).reshape(1, ranks, 2)
    decide = PolicyFactory.generate_policy(policy).rebalance_experts
    if is_refused:
        with pytest.raises(IndexError):
            decide(table, torch.ones(1, ranks, 2))
    else:
        decide(table, torch.ones(1, ranks, 2, dtype=torch.int64))


def test_copies_share_the_load_of_their_expert() -> None:
    """What the policy adds up again is exact."""
    from vllm_ascend_ext.integration.eplb_load.ascend_eplb import by_place

    # expert 0 on all three ranks, expert 3 on two of them
    maps = torch.tensor([[[0, 1, -1, 2], [0, -1, 1, 2], [0, 1, 2, -1]]])
    load = torch.tensor([[8, 4, 2, 5]])
    assert by_place(load, maps).tolist() == [[[3, 2, 3], [3, 1, 2], [2, 2, 1]]]


@pytest.mark.parametrize(
    ("policy", "copies", "ranks", "is_refused"),
    [(1, 4, 4, False), (1, 5, 4, True), (2, 4, 4, True), (2, 0, 4, False)],
)
def test_policy_1_gives_each_rank_a_copy(
    policy: int, copies: int, ranks: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more its process ends by a ValueError."""
    from vllm_ascend.eplb.core.eplb_utils import generate_global_placement
    from vllm_ascend.eplb.core.policy.policy_factory import PolicyFactory

    settings = SimpleNamespace(eplb_policy_type=policy, num_redundant_experts=copies)
    monkeypatch.setattr(rebalance_limits, "_eplb_config", lambda deployment: settings)
    parallel = SimpleNamespace(tensor_parallel_size=ranks, data_parallel_size=1, prefill_context_parallel_size=1)
    (rule,) = [rule for rule in rebalance_limits.ASCEND_RULES if "a copy a rank" in rule.why]
    on = SimpleNamespace(config=SimpleNamespace(eplb_load=SimpleNamespace(rebalance=True)), parallel=parallel)
    assert bool(rule.refuses(on)) == is_refused
    if policy == 1 and is_refused:
        table = generate_global_placement(15, ranks, copies, 0)[None]
        with pytest.raises(ValueError, match="redundant"):
            PolicyFactory.generate_policy(policy).rebalance_experts(table, torch.ones_like(table))
