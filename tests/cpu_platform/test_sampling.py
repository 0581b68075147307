# SPDX-License-Identifier: Apache-2.0
"""The rejection sampler's kernels against loop transcriptions of the Triton kernels they replace."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.cpu_platform.kernel_launch import (
    UNTOUCHED,
    assert_same_writes,
    cumulative,
    upstream_parameters,
    upstream_source,
)
from vllm_ascend_ext.integration.cpu_platform import sampling

LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=7)
SEEDS = st.integers(0, 2**31 - 1)
INTS = st.sampled_from([torch.int32, torch.int64])
EXAMPLES = settings(max_examples=40, deadline=None)


def segments(grid: tuple[int, ...], cumulative_sums: Tensor) -> list[tuple[int, int, int]]:
    ends = [0, *cumulative_sums.tolist()]
    return [(request, ends[request], ends[request + 1]) for request in range(grid[0])]


def reference_greedy(
    grid: Any, out: Any, cu: Any, draft: Any, argmax: Any, bonus: Any, is_greedy: Any, width: int,
    uniform: Any,
    rates: Any, SYNTHETIC_MODE: bool,
) -> None:  # fmt: skip
    flat = out.view(-1)
    for request, start, end in segments(grid, cu):
        if is_greedy is not None and not is_greedy[request]:
            continue
        rejected = False
        for pos in range(end - start):
            if not rejected:
                if SYNTHETIC_MODE:
                    accepted = bool(uniform[start + pos] < rates[pos])
                    token = draft[start + pos] if accepted else argmax[start + pos]
                    rejected = not accepted
                else:
                    token = argmax[start + pos]
                    rejected = int(draft[start + pos]) != int(token)
                flat[request * (width + 1) + pos] = token
        if not rejected:
            flat[request * (width + 1) + end - start] = bonus.view(-1)[request]


def reference_random(
    grid: Any, out: Any, cu: Any, draft: Any, draft_probs: Any, target_probs: Any, bonus: Any, recovered: Any,
    uniform: Any, is_greedy: Any, width: int, vocab: int, rates: Any, NO_DRAFT_PROBS: bool,
    SYNTHETIC_MODE: bool,
) -> None:  # fmt: skip
    flat = out.view(-1)
    for request, start, end in segments(grid, cu):
        if is_greedy[request]:
            continue
        rejected = False
        for pos in range(end - start):
            if not rejected:
                token = int(draft[start + pos])
                if SYNTHETIC_MODE:
                    accepted = bool(uniform[start + pos] < rates[pos])
                else:
                    draft_prob = torch.tensor(1.0) if NO_DRAFT_PROBS else draft_probs[start + pos, token]
                    target_prob = target_probs[start + pos, token]
                    accepted = bool(draft_prob > 0) and bool(target_prob / draft_prob >= uniform[start + pos])
                if not accepted:
                    rejected = True
                    token = int(recovered[start + pos])
                flat[request * (width + 1) + pos] = token
        if not rejected:
            flat[request * (width + 1) + end - start] = bonus.view(-1)[request]


def reference_expand(
    grid: Any, out: Any, values: Any, cu: Any, replace_from: float, replace_to: float, MAX_NUM_TOKENS: int
) -> None:
    for request, start, end in segments(grid, cu):
        value = values[request].item()
        for token in range(start, end):
            out[token] = replace_to if value == replace_from else value


def reference_recovered(
    grid: Any, out: Any, cu: Any, draft: Any, draft_probs: Any, target_probs: Any, inv_q: Any, vocab: int,
    BLOCK_SIZE: int, NO_DRAFT_PROBS: bool, USE_FP64_GUMBEL: bool,
) -> None:  # fmt: skip
    for request, start, end in segments(grid, cu):
        for token in range(start, end):
            best, best_id = float("-inf"), 0
            for v in range(vocab):
                if NO_DRAFT_PROBS:
                    prob = torch.tensor(0.0) if v == int(draft[token]) else target_probs[token, v]
                else:
                    prob = (target_probs[token, v] - draft_probs[token, v]).clamp(min=0)
                score = float(prob * inv_q[request, v])
                if score > best:
                    best, best_id = score, v
            out[token] = best_id


def probabilities(rows: int, vocab: int, generator: torch.Generator) -> Tensor:
    """Rows with zeros and equal entries, so that ties and impossible tokens occur."""
    weights = torch.randint(0, 4, (rows, vocab), generator=generator).float()
    weights[:, 0] += 1
    return weights / weights.sum(dim=1, keepdim=True)


@EXAMPLES
@given(
    lengths=LENGTHS,
    seed=SEEDS,
    dtype=INTS,
    mode=st.sampled_from(["none", "all", "some"]),
    synthetic=st.booleans(),
)
def test_greedy(lengths: list[int], seed: int, dtype: torch.dtype, mode: str, synthetic: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    total, batch, width = sum(lengths), len(lengths), max(lengths)
    draft = torch.randint(-1, 3, (total,), generator=g).to(dtype)
    is_greedy = {
        "none": None, "all": torch.ones(batch, dtype=torch.bool), "some": torch.rand(batch, generator=g) < 0.5
    }[mode]  # fmt: skip
    assert_same_writes(
        sampling.rejection_greedy_sample_kernel, reference_greedy, (batch,),
        torch.full((batch + 2, width + 1), UNTOUCHED, dtype=torch.int32),
        torch.cat([cumulative(lengths, dtype), torch.tensor([99, 99], dtype=dtype)]),
        draft, torch.randint(0, 3, (total,), generator=g), torch.arange(100, 100 + batch).view(-1, 1),
        is_greedy, width, torch.rand(total, generator=g, dtype=torch.float64), torch.tensor([0.8, 0.6, 0.5,
        0.4]),
        SYNTHETIC_MODE=synthetic,
    )  # fmt: skip


@EXAMPLES
@given(lengths=LENGTHS, seed=SEEDS, dtype=INTS, no_probs=st.booleans(), synthetic=st.booleans())
def test_random(lengths: list[int], seed: int, dtype: torch.dtype, no_probs: bool, synthetic: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    total, batch, width, vocab = sum(lengths), len(lengths), max(lengths), 5
    assert_same_writes(
        sampling.rejection_random_sample_kernel, reference_random, (batch,),
        torch.full((batch + 1, width + 1), UNTOUCHED, dtype=torch.int32), cumulative(lengths, dtype),
        torch.randint(0, vocab, (total,), generator=g).to(dtype),
        None if no_probs else probabilities(total, vocab, g), probabilities(total, vocab, g),
        torch.arange(100, 100 + batch).view(-1, 1), torch.arange(200, 200 + total).to(dtype),
        torch.rand(total, generator=g, dtype=torch.float64), torch.rand(batch, generator=g) < 0.3, width,
        vocab,
        torch.tensor([0.8, 0.6, 0.5, 0.4]), NO_DRAFT_PROBS=no_probs, SYNTHETIC_MODE=synthetic,
    )  # fmt: skip


@pytest.mark.parametrize("no_probs", [True, False])
def test_random_rejects_a_placeholder_draft(no_probs: bool) -> None:
    """A draft id of -1 is replaced even where the neighbouring memory would accept it."""
    out = torch.full((2, 3), UNTOUCHED)
    certain = torch.ones(3, 4)
    sampling.rejection_random_sample_kernel[(2,)](
        out, torch.tensor([2, 3]), torch.tensor([2, -1, -1]), None if no_probs else certain, certain,
        torch.tensor([90, 91]), torch.tensor([50, 51, 52]), torch.zeros(3, dtype=torch.float64),
        torch.zeros(2, dtype=torch.bool), 2, 4, None, NO_DRAFT_PROBS=no_probs, SYNTHETIC_MODE=False,
    )  # fmt: skip
    assert out.tolist() == [[2, 51, UNTOUCHED], [52, UNTOUCHED, UNTOUCHED]]


@EXAMPLES
@given(
    lengths=LENGTHS, seed=SEEDS, dtype=INTS,
    values=st.sampled_from([torch.float32, torch.float64, torch.int32, torch.int64]),
)  # fmt: skip
def test_expand(lengths: list[int], seed: int, dtype: torch.dtype, values: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    value = (torch.randint(0, 3, (len(lengths) + 1,), generator=g) / (2 if values.is_floating_point else 1)).to(
        values
    )
    assert_same_writes(
        sampling.expand_kernel, reference_expand, (len(lengths),),
        torch.full((sum(lengths) + 2,), UNTOUCHED, dtype=values), value, cumulative(lengths, dtype), 0, 1,
        MAX_NUM_TOKENS=128,
    )  # fmt: skip


@EXAMPLES
@given(lengths=LENGTHS, seed=SEEDS, dtype=INTS, no_probs=st.booleans(), fp64=st.booleans())
def test_recovered(lengths: list[int], seed: int, dtype: torch.dtype, no_probs: bool, fp64: bool) -> None:
    check_recovered(lengths, seed, dtype, no_probs, fp64)


@pytest.mark.parametrize("no_probs", [True, False])
def test_recovered_in_several_chunks(no_probs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "RECOVERY_ROWS", 3)
    check_recovered([4, 0, 4, 2, 4], 7, torch.int32, no_probs, False)


def check_recovered(lengths: list[int], seed: int, dtype: torch.dtype, no_probs: bool, fp64: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    total, batch, vocab = sum(lengths), len(lengths), 6
    noise = torch.randint(1, 4, (batch, vocab), generator=g).to(torch.float64 if fp64 else torch.float32) / 3
    noise[0, 1] = float("inf")  # 0 * inf must not win
    target_probs = probabilities(total, vocab, g)
    target_probs[::2] *= 0.2  # below the draft everywhere: all scores are 0, the first wins
    assert_same_writes(
        sampling.sample_recovered_tokens_kernel, reference_recovered, (batch, max(lengths)),
        torch.full((total + 2,), UNTOUCHED, dtype=dtype), cumulative(lengths, dtype),
        torch.randint(-1, vocab, (total,), generator=g).to(dtype),
        None if no_probs else probabilities(total, vocab, g), target_probs, noise, vocab, 4,
        NO_DRAFT_PROBS=no_probs, USE_FP64_GUMBEL=fp64,
    )  # fmt: skip


def test_output_follows_the_target_distribution() -> None:
    """Acceptance and recovery together sample from the target, whatever the draft model thinks."""
    torch.manual_seed(0)
    batch, vocab = 40_000, 4
    draft_probs = torch.tensor([0.7, 0.1, 0.1, 0.1]).repeat(batch, 1)
    target = torch.tensor([0.2, 0.5, 0.3, 0.0])
    target_probs = target.repeat(batch, 1)
    draft = draft_probs[0].multinomial(batch, replacement=True)
    cu, recovered = torch.arange(1, batch + 1), torch.empty(batch, dtype=torch.long)
    inv_q = torch.empty(batch, vocab).exponential_().reciprocal()
    sampling.sample_recovered_tokens_kernel[(batch, 1)](
        recovered, cu, draft, draft_probs, target_probs, inv_q, vocab, 8192, NO_DRAFT_PROBS=False,
        USE_FP64_GUMBEL=False,
    )  # fmt: skip
    out = torch.full((batch, 2), -1)
    sampling.rejection_random_sample_kernel[(batch,)](
        out, cu, draft, draft_probs, target_probs, torch.zeros(batch, dtype=torch.long), recovered,
        torch.rand(batch, dtype=torch.float64), torch.zeros(batch, dtype=torch.bool), 1, vocab, None,
        NO_DRAFT_PROBS=False, SYNTHETIC_MODE=False,
    )  # fmt: skip
    measured = out[:, 0].bincount(minlength=vocab) / batch
    torch.testing.assert_close(measured, target, atol=0.015, rtol=0)


def test_parameters_are_those_of_the_triton_kernels() -> None:
    for path, kernels in {
        "v1/sample/rejection_sampler.py": ["rejection_greedy_sample", "rejection_random_sample", "expand",
                                           "sample_recovered_tokens"],
        "v1/spec_decode/utils.py": ["eagle_prepare_inputs_padded", "eagle_prepare_next_token_padded",
                                    "eagle_step_slot_mapping_metadata", "copy_and_expand_eagle_inputs"],
        "v1/worker/block_table.py": ["_compute_slot_mapping"],
    }.items():  # fmt: skip
        for stem in kernels:
            kernel: Any = sampling.KERNELS[f"{stem.removeprefix('_')}_kernel"]
            parameters = list(inspect.signature(kernel._function).parameters)
            assert parameters == ["grid", *upstream_parameters(path, stem + "_kernel")], stem


def test_every_name_that_vllm_takes_is_replaced() -> None:
    used = {
        node.attr
        for node in ast.walk(upstream_source("v1/worker/cpu_model_runner.py"))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cpu_tl"
    }
    assert used == set(sampling.KERNELS)
