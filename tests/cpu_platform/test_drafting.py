# SPDX-License-Identifier: Apache-2.0
"""The kernels that prepare draft inputs and cache slots, against loops transcribed from Triton."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cpu_platform.kernel_launch import UNTOUCHED, assert_same_writes, cumulative
from vllm_ascend_ext.integration.cpu_platform import drafting

SEEDS = st.integers(0, 2**31 - 1)
INTS = st.sampled_from([torch.int32, torch.int64])
EXAMPLES = settings(max_examples=40, deadline=None)


def reference_prepare_inputs(
    grid: Any, cu: Any, valid: Any, query_start: Any, to_sample: Any, num_rejected: Any, num_reqs: int
) -> None:
    for request in range(grid[0]):
        if request >= num_reqs:
            continue
        drafts = int(cu[request]) - (int(cu[request - 1]) if request else 0)
        rejected = drafts + 1 - int(valid[request]) if drafts > 0 else 0
        to_sample[request] = query_start[request + 1] - 1 - rejected
        num_rejected[request] = rejected


def reference_next_token(
    grid: Any, sampled: Any, discard: Any, backup: Any, next_token: Any, count: Any, vocab: int, width: int,
    num_reqs: int, stride: int, BLOCK_SIZE_TOKENS: int,
) -> None:  # fmt: skip
    for request in range(min(grid[0], num_reqs)):
        row = [int(token) for token in sampled[request, :width]]
        valid = [token for token in row if token != -1 and token < vocab]
        if discard[request]:
            valid = []
        next_token[request] = valid[-1] if valid else backup[request]
        count[request] = len(valid)


def reference_step(
    grid: Any, positions: Any, table: Any, stride: int, seq_lens: Any, out_positions: Any, out_slots: Any,
    block_size: int, max_model_len: int, n_blocks_per_req: int, PAD_ID: int, batch_size: int,
) -> None:  # fmt: skip
    for request in range(grid[0]):
        if request >= batch_size:
            out_slots[request] = PAD_ID
            continue
        position = int(positions[request]) + 1
        exceeds = position >= max_model_len
        position = 0 if exceeds else position
        block = int(table[request, min(position // block_size, n_blocks_per_req - 1)])
        out_positions[request] = position
        out_slots[request] = PAD_ID if exceeds else block * block_size + position % block_size
        seq_lens[request] = min(1 if exceeds else int(seq_lens[request]) + 1, max_model_len)


def reference_expand_inputs(
    grid: Any, tokens: Any, positions: Any, next_tokens: Any, out_tokens: Any, out_positions: Any,
    out_rejected: Any, out_masked: Any, out_new: Any, out_hidden: Any, query_start: Any, query_end: Any,
    padding: int, drafting_token: int, total: int, slots: int, shift: bool, BLOCK_SIZE_TOKENS: int,
) -> None:  # fmt: skip
    for request in range(grid[0]):
        start, following = int(query_start[request]), int(query_start[request + 1])
        end = int(query_end[request])
        valid = end - start if shift else end - start + 1
        offset = 1 if shift else 0
        out_start = start + request * (slots - 1 if shift else slots)
        num_out = valid + slots + following - end - 1
        for j in range(grid[1] * BLOCK_SIZE_TOKENS):
            out = out_start + j
            if shift and j < following - start:
                out_hidden[start + j] = out
            if j >= num_out:
                continue
            is_draft, is_rejected = valid < j < valid + slots, j >= valid + slots
            token = int(tokens[min(start + offset + j, total - 1)]) if j < valid else 0
            token = int(next_tokens[request]) if j == valid else token
            token = drafting_token if is_draft else token
            out_tokens[out] = padding if is_rejected else token
            out_positions[out] = 0 if is_rejected else int(positions[start]) + j
            out_rejected[out], out_masked[out] = is_rejected, is_draft
            if valid <= j < valid + slots:
                out_new[request * slots + j - valid] = out


def reference_slots(
    grid: Any, num_tokens: int, max_num_tokens: int, query_start: Any, positions: Any, table: Any,
    stride: int,
    block_size: int, slots: Any, TOTAL_CP_WORLD_SIZE: int, TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int, BLOCK_SIZE: int,
) -> None:  # fmt: skip
    virtual = block_size * TOTAL_CP_WORLD_SIZE
    for request in range(grid[0]):
        if request == grid[0] - 1:
            slots[num_tokens:max_num_tokens] = PAD_ID
            return
        for token in range(int(query_start[request]), int(query_start[request + 1])):
            position = int(positions[token])
            block = int(table.view(-1)[request * stride + position // virtual])
            offset = position - position // virtual * virtual
            local = offset // CP_KV_CACHE_INTERLEAVE_SIZE % TOTAL_CP_WORLD_SIZE == TOTAL_CP_RANK
            inner = (
                offset // (TOTAL_CP_WORLD_SIZE * CP_KV_CACHE_INTERLEAVE_SIZE) * CP_KV_CACHE_INTERLEAVE_SIZE
                + offset % CP_KV_CACHE_INTERLEAVE_SIZE
            )
            slots[token] = block * block_size + inner if local else PAD_ID


@EXAMPLES
@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6), seed=SEEDS, dtype=INTS)
def test_prepare_inputs(lengths: list[int], seed: int, dtype: torch.dtype) -> None:
    g, batch = torch.Generator().manual_seed(seed), len(lengths)
    query_start = torch.cat([torch.zeros(1, dtype=dtype), cumulative([n + 1 for n in lengths], dtype)])
    valid = torch.stack([torch.randint(0, n + 2, (), generator=g) for n in lengths]).to(dtype)
    assert_same_writes(
        drafting.eagle_prepare_inputs_padded_kernel, reference_prepare_inputs, (batch + 1,),
        cumulative(lengths, dtype), valid, query_start, torch.full((batch + 2,), UNTOUCHED, dtype=dtype),
        torch.full((batch + 2,), UNTOUCHED, dtype=dtype), batch,
    )  # fmt: skip


@EXAMPLES
@given(batch=st.integers(1, 6), width=st.integers(1, 5), seed=SEEDS, dtype=INTS)
def test_next_token(batch: int, width: int, seed: int, dtype: torch.dtype) -> None:
    """Valid tokens need not be a prefix: -1 and ids beyond the vocabulary occur anywhere."""
    g, rows = torch.Generator().manual_seed(seed), batch + 1
    sampled = torch.randint(-1, 6, (rows, width + 2), generator=g).to(dtype)[:, :width]  # not contiguous
    assert_same_writes(
        drafting.eagle_prepare_next_token_padded_kernel, reference_next_token, (rows,), sampled,
        torch.rand(rows, generator=g) < 0.3, torch.arange(50, 50 + rows, dtype=torch.int32),
        torch.full((rows,), UNTOUCHED, dtype=dtype), torch.full((rows,), UNTOUCHED, dtype=dtype), 5, width,
        batch,
        sampled.stride(0), BLOCK_SIZE_TOKENS=8,
    )  # fmt: skip


@EXAMPLES
@given(batch=st.integers(1, 6), padded=st.integers(0, 3), blocks=st.integers(1, 5), seed=SEEDS, dtype=INTS)
def test_step(batch: int, padded: int, blocks: int, seed: int, dtype: torch.dtype) -> None:
    g, max_model_len = torch.Generator().manual_seed(seed), 18
    positions = torch.randint(0, max_model_len, (batch,), generator=g)
    positions[0] = max_model_len - 1
    table = torch.randint(0, 50, (batch + 1, blocks + 2), generator=g, dtype=torch.int32)[:, :blocks]
    assert_same_writes(
        drafting.eagle_step_slot_mapping_metadata_kernel, reference_step, (batch + padded,), positions, table,
        table.stride(0), (positions + 1).to(dtype), torch.full((batch + 1,), UNTOUCHED, dtype=dtype),
        torch.full((batch + 4,), UNTOUCHED), block_size=4, max_model_len=max_model_len,
        n_blocks_per_req=blocks,
        PAD_ID=-1, batch_size=batch,
    )  # fmt: skip


def test_step_writes_positions_in_place() -> None:
    """The drafter passes one buffer as input and output."""
    positions, slots, lengths = torch.tensor([3, 9]), torch.zeros(2, dtype=torch.int64), torch.tensor([4, 10])
    drafting.eagle_step_slot_mapping_metadata_kernel[(2,)](
        positions, torch.tensor([[7, 8], [5, 6]]), 2, lengths, positions, slots, block_size=4,
        max_model_len=10,
        n_blocks_per_req=2, PAD_ID=-1, batch_size=2,
    )  # fmt: skip
    assert (positions.tolist(), slots.tolist(), lengths.tolist()) == ([4, 0], [32, -1], [5, 1])


@EXAMPLES
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), slots=st.integers(1, 3), seed=SEEDS,
    dtype=INTS,
    shift=st.booleans(), block=st.sampled_from([2, 8]),
)  # fmt: skip
def test_expand_inputs(
    lengths: list[int], slots: int, seed: int, dtype: torch.dtype, shift: bool, block: int
) -> None:
    g, batch, total = torch.Generator().manual_seed(seed), len(lengths), sum(lengths)
    query_start = torch.cat([torch.zeros(1, dtype=dtype), cumulative(lengths, dtype)])
    rejected = torch.stack([torch.randint(0, n, (), generator=g) for n in lengths]).to(dtype)
    out_tokens = total + (slots - int(shift)) * batch

    def buffer(size: int) -> torch.Tensor:
        return torch.full((size + 3,), UNTOUCHED, dtype=torch.int32)

    assert_same_writes(
        drafting.copy_and_expand_eagle_inputs_kernel, reference_expand_inputs,
        (batch, -(-(max(lengths) + slots - int(shift)) // block)), torch.randint(0, 99, (total,),
        generator=g),
        torch.randint(0, 99, (total,), generator=g), torch.arange(200, 200 + batch, dtype=dtype),
        buffer(out_tokens), buffer(out_tokens).long(), torch.zeros(out_tokens + 3, dtype=torch.bool),
        torch.ones(out_tokens + 3, dtype=torch.bool), buffer(batch * slots), buffer(total), query_start,
        query_start[1:] - 1 - rejected, 0, 500, total, slots, shift, BLOCK_SIZE_TOKENS=block,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("world", "rank", "interleave"), [(1, 0, 1), (1, 0, 4), (2, 0, 1), (2, 1, 2), (4, 3, 1), (4, 2, 4)]
)
@EXAMPLES
@given(lengths=st.lists(st.integers(0, 9), max_size=5), padding=st.integers(0, 3), seed=SEEDS, dtype=INTS)
def test_slot_mapping(
    world: int, rank: int, interleave: int, lengths: list[int], padding: int, seed: int, dtype: torch.dtype
) -> None:
    g, batch, total = torch.Generator().manual_seed(seed), len(lengths), sum(lengths)
    table = torch.randint(0, 50, (batch + 2, 9), generator=g, dtype=torch.int32)
    query_start = torch.cat([torch.zeros(1), torch.tensor(lengths).cumsum(0), torch.tensor([0, 0])]).to(dtype)
    assert_same_writes(
        drafting.compute_slot_mapping_kernel, reference_slots, (batch + 1,), total + padding,
        total + padding + 5,
        query_start, torch.randint(0, 9 * 4 * world, (total + padding,), generator=g).to(dtype), table,
        table.stride(0), 4, torch.full((total + padding + 7,), UNTOUCHED), TOTAL_CP_WORLD_SIZE=world,
        TOTAL_CP_RANK=rank, CP_KV_CACHE_INTERLEAVE_SIZE=interleave, PAD_ID=-1, BLOCK_SIZE=1024,
    )  # fmt: skip
