# SPDX-License-Identifier: Apache-2.0
"""The stand-ins of vllm-ascend's kernels of LoRA, drafts and caches, against plain loops that share no code."""

from __future__ import annotations

import random

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module", autouse=True)
def custom_operators() -> None:
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_lora_of_rows_and_of_sequences() -> None:
    x, weight = torch.randn(6, 12, dtype=torch.float16), torch.randn(3, 4, 12, dtype=torch.float16)
    adapters, lengths = [2, -1, 0], [3, 1, 2]
    of_rows = [a for a, n in zip(adapters, lengths, strict=True) for _ in range(n)]
    shrunk, y = torch.ones(6, 4), torch.randn(6, 10)
    wanted_shrunk, wanted = shrunk.double(), y.double()
    back = torch.randn(3, 5, 4, dtype=torch.float16)
    small = torch.randn(6, 4)
    for row, adapter in enumerate(of_rows):
        if adapter >= 0:
            wanted_shrunk[row] += weight[adapter].double() @ x[row].double() * 0.5
            wanted[row, 2:7] += back[adapter].double() @ small[row].double()
    ops = torch.ops._C_ascend
    for by in ("bgmv", "sgmv"):
        chosen = (torch.tensor(of_rows).npu(),)
        if by == "sgmv":
            chosen = (torch.tensor(adapters).npu(), torch.tensor(lengths).npu())
        out, slices = shrunk.npu(), y.npu()
        getattr(ops, f"{by}_shrink")(x.npu(), weight.npu(), *chosen, out, 0.5)
        result = getattr(ops, f"{by}_expand")(small.npu(), back.npu(), *chosen, slices, 2, 5)
        assert_close(out, wanted_shrunk)
        assert_close(slices, wanted)
        assert result.data_ptr() == slices.data_ptr()


@pytest.mark.parametrize("shift", (False, True))
@pytest.mark.parametrize("num_slots", (1, 3))
def test_inputs_of_a_model_that_drafts_at_once(shift: bool, num_slots: int) -> None:
    rng = random.Random(num_slots)
    lengths = [rng.randint(2, 9) for _ in range(5)]
    rejected = [rng.randint(0, n - 1) for n in lengths]
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    ends = [start + n - r - 1 for start, n, r in zip(starts, lengths, rejected, strict=False)]
    ids = [rng.randint(1, 99) for _ in range(starts[-1])]
    positions = [10 * r + p for r, n in enumerate(lengths) for p in range(n)]
    following = [200 + r for r in range(len(lengths))]
    rows: list[tuple[int, int, int, int]] = []
    slots, of_tokens = [], [0] * len(ids)
    for r, start in enumerate(starts[:-1]):
        valid = ids[start + int(shift) : ends[r] + 1]
        first, begin = positions[start], len(rows)
        if shift:
            of_tokens[start : starts[r + 1]] = range(begin, begin + lengths[r])
        rows += [(token, first + j, 0, 0) for j, token in enumerate(valid)]
        slots += range(len(rows), len(rows) + num_slots)
        rows.append((following[r], first + len(valid), 0, 0))
        rows += [(-7, first + len(valid) + k, 0, 1) for k in range(1, num_slots)]
        rows += [(-9, 0, 1, 0)] * rejected[r]
    inputs = (torch.tensor(x, dtype=torch.int32).npu() for x in (ids, positions, following, starts, ends))
    found = torch.ops._C_ascend.npu_copy_and_expand_eagle_inputs(*inputs, -9, -7, num_slots, shift, len(rows))
    for actual, expected in zip(found, (*zip(*rows, strict=True), slots, of_tokens), strict=True):
        assert actual.tolist() == list(expected)


def test_drafts_by_an_earlier_occurrence() -> None:
    rows = [
        [1, 2, 3, 9, 1, 2, 0, 0, 0],
        [4, 4, 4, 4, 0, 0, 0, 0, 0],
        [5, 6, 7, 8, 0, 0, 0, 0, 0],
        [1, 2, 1, 2] + [0] * 5,
    ]
    sampled = [[3, -1], [4, 4], [7, -1], [2, 99]]
    token_ids, counts = torch.tensor(rows, dtype=torch.int32).npu(), torch.tensor([6, 4, 4, 4]).npu()
    given, discards = torch.tensor(sampled, dtype=torch.int32).npu(), torch.tensor([0, 0, 0, 1]).npu()
    _, last, drafts, number = torch.ops._C_ascend.npu_ngram_spec_decode(
        token_ids, counts, given, discards, 50, 2, 3, 3
    )
    assert last.tolist() == [3, 4, 7, 2]  # the discarded row keeps its last token
    assert drafts.tolist() == [[9, 1, 2], [4, 4, 4], [-1, -1, -1], [-1, -1, -1]]
    assert number.tolist() == [3, 3, 0, 0]
    assert token_ids.tolist()[:2] == [[1, 2, 3, 9, 1, 2, 3, 0, 0], [4, 4, 4, 4, 4, 4, 0, 0, 0]]
    assert given.tolist() == [[3, -1], [4, 4], [7, -1], [-1, -1]]


def test_heads_of_several_ranks_come_together() -> None:
    num_splits, size, heads, head_size = 2, 3, 4, 2
    caches = [torch.randn(5, size, heads, head_size) for _ in range(4)]
    on_device = [cache.npu() for cache in caches]
    blocks = [3, 1]
    torch.ops._C_ascend.transpose_kv_cache_by_block(
        on_device[:2], on_device[2:], torch.tensor(blocks).npu(), size, heads, head_size, num_splits, 2
    )
    for cache, result in zip(caches, on_device, strict=True):
        expected = cache.clone()
        for block in blocks:
            flat = cache[block].flatten().reshape(num_splits, size, heads // num_splits, head_size)
            for slot in range(size):
                expected[block, slot] = torch.cat([flat[split, slot] for split in range(num_splits)])
        assert torch.equal(result.cpu(), expected)


@pytest.mark.parametrize("slots", ([5, 0, -1, 11], [-1, -1, -1, -1]))
def test_keys_in_their_slots(slots: list[int]) -> None:
    key = torch.arange(4 * 2, dtype=torch.int8).view(4, 2)
    cache = torch.full((3, 4, 1, 2), -1, dtype=torch.int8)
    on_device, lengths = cache.npu(), [torch.empty(4, dtype=torch.int32).npu() for _ in range(3)]
    torch.ops._C_ascend.store_kv_block_metadata(torch.tensor(slots, dtype=torch.int32).npu(), *lengths, 4)
    torch.ops._C_ascend.store_kv_block(key.npu(), on_device, *lengths, 4)
    for token, slot in enumerate(slots):
        if slot >= 0:
            cache[slot // 4, slot % 4] = key[token]
    assert torch.equal(on_device.cpu(), cache)


def test_products_of_transposed_batches_and_rows_of_a_vocabulary() -> None:
    a, b = torch.randn(3, 2, 5), torch.randn(2, 5, 4)
    c = torch.empty(3, 2, 4).npu()
    torch.ops._C_ascend.batch_matmul_transpose(a.npu(), b.npu(), c)
    assert_close(
        c, torch.stack([torch.stack([a[i, j].double() @ b[j].double() for j in range(2)]) for i in range(3)])
    )
    ids = torch.tensor([5, 10, 19, 20, 31, 32, 40], dtype=torch.int32)
    rows, others = torch.ops._C_ascend.get_masked_input_and_mask(ids.npu(), 10, 20, 2, 30, 40)
    # ten of the vocabulary, two rows of padding, then the added ones
    assert rows.tolist() == [0, 0, 9, 0, 13, 14, 0] and rows.dtype == ids.dtype
    assert others.tolist() == [True, False, False, True, False, False, True]
