# SPDX-License-Identifier: Apache-2.0
"""In which steps one gather pays where FlashComm v1 divides the rows: V3's and V3.2's widths, and any rates."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ascend_ext.attn_scatter.cut_cost import CutSizes, PayingSteps, parts, paying_steps
from vllm_ascend_ext.attn_scatter.layer_cost import NORM_OPERATIONS
from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.attn_scatter.ascend_cut_steps import no_step_pays
from vllm_ascend_ext.machines.known import A2, A3, A3_ROCE
from vllm_ascend_ext.machines.rates import Rates

V3 = CutSizes(hidden=7168, query=1536, key=576, element_bytes=2)
V32 = CutSizes(hidden=7168, query=1536, key=576, element_bytes=2, indexer=128 + 64)


@settings(deadline=None)
@given(
    num_ranks=st.integers(2, 16),
    collective_us=st.floats(1, 200),
    hop_us=st.floats(0, 5),
    memory=st.floats(1e11, 5e12),
    vector=st.floats(1e11, 5e13),
)
def test_dense_latents_pay_up_to_where_the_times_cross(
    num_ranks: int, collective_us: float, hop_us: float, memory: float, vector: float
) -> None:
    """A collective is saved, and for every row of the other ranks a norm and a copy are paid."""
    rates = Rates("any", 1e14, memory, 1e11, collective_us / 1e6, hop_s=hop_us / 1e6, vector=vector)
    steps = paying_steps([V3] * 61, num_ranks, rates)
    row_s = max(2 * 1536 * 2 / memory, NORM_OPERATIONS * 1536 / vector) + 2 * 576 * 2 / memory
    of_a_rank = rates.call_s(num_ranks) / row_s / (num_ranks - 1)  # rows, as a fraction
    if of_a_rank < 1:
        assert steps is None
        return
    assert steps is not None and steps.first == 1 and steps.last is not None
    assert steps.last % num_ranks == 0
    assert steps.last / num_ranks == pytest.approx(math.ceil(of_a_rank) - 1, abs=1)
    assert steps.last in steps and steps.last + 1 not in steps


@pytest.mark.parametrize("machine", [A2, A3, A3_ROCE], ids=lambda machine: machine.name)
@pytest.mark.parametrize("num_ranks", [2, 4, 8, 16])
def test_known_widths(machine: Any, num_ranks: int) -> None:
    dense, sparse = (paying_steps([sizes] * 61, num_ranks, machine.rates) for sizes in (V3, V32))
    assert dense is not None and dense.last is not None and 2000 < dense.last < 4000
    assert sparse == PayingSteps(1)


def test_what_never_pays() -> None:
    """Latents that are wider than the rows of sparse attention, and a collective that costs nothing."""
    assert paying_steps([CutSizes(512, 1536, 576, 2, indexer=192)], 8, A3.rates) is None
    assert paying_steps([V3], 8, Rates("any", 1e14, 1e12, 1e11, collective_s=0.0)) is None


def test_bytes() -> None:
    """Alike with dense attention, whose latents travel in one gather or two; 2304 columns for 7168 with sparse."""
    for sizes, width in ((V3, 2112), (V32, 7168)):
        ours, theirs = (parts(sizes, 13, 4, once=once) for once in (True, False))
        sent = [[part.sent for part in found if part.collective] for found in (ours, theirs)]
        assert sent[0] == [3 * 4 * sizes.gathered * 2]
        assert sum(sent[1]) == 3 * 4 * width * 2
        assert len(sent[1]) == (1 if sizes.indexer else 2)


def deployment(captured: int, min_tokens: int | None = None, **widths: int) -> Any:
    section = {"attn_scatter": {"enabled": True, "min_tokens": min_tokens}}
    names = {"hidden_size": 7168, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    compilation = SimpleNamespace(max_cudagraph_capture_size=None, cudagraph_capture_sizes=[1, captured])
    return SimpleNamespace(
        config=ExtConfig.model_validate(section),
        model=SimpleNamespace(hf_text_config=SimpleNamespace(**(names | widths)), dtype=torch.bfloat16),
        parallel=SimpleNamespace(tensor_parallel_size=8),
        vllm_config=SimpleNamespace(compilation_config=compilation),
        replays_graphs=captured > 0,
    )


def test_steps_are_judged_before_anything_is_loaded() -> None:
    last = paying_steps([V3], 8, A3.rates)
    assert last is not None and last.last is not None
    assert no_step_pays(deployment(0)) is None
    assert no_step_pays(deployment(512)) is None
    assert no_step_pays(deployment(last.last, min_tokens=4000)) is None  # the user knows
    assert no_step_pays(deployment(last.last, index_head_dim=128, index_n_heads=64)) is None
    found = no_step_pays(deployment(last.last))
    assert isinstance(found, dict) and f"up to {last.last} are left to captured graphs" in found["steps"]
    assert f"in steps of 1 to {last.last} rows" in found["steps"]
    narrow = deployment(0, hidden_size=512, index_head_dim=128, index_n_heads=64)
    assert no_step_pays(narrow) == {"steps": "is slower at any number of rows"}
