# SPDX-License-Identifier: Apache-2.0
"""The references against slow loops; opcheck; refusals. `expert_load_add_` has a file of its own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.cases import (
    FLOATS,
    INTEGERS,
    ROW_TYPES,
    counts_case,
    exact_norm,
    norm_case,
    pack_case,
    pack_output,
    rows_case,
)
from vllm_ascend_ext import ops

OPS = torch.ops.ascend_ext
seeds = st.integers(0, 1 << 20)
untimed = settings(deadline=None)  # the machine is shared


@untimed
@given(st.integers(1, 20), st.booleans(), st.sampled_from(INTEGERS), st.sampled_from(INTEGERS), seeds)
def test_counts_are_added(experts, is_cumsum, load_dtype, counts_dtype, seed):
    load, counts = counts_case(experts, is_cumsum, counts_dtype, seed)
    load = load.to(load_dtype)
    before, sums = load.tolist(), [0, *counts.tolist()]
    ops.expert_load_add_counts_(load, counts, is_cumsum)
    added = [b - a for a, b in zip(sums[:-1], sums[1:], strict=True)] if is_cumsum else sums[1:]
    assert load.tolist() == [a + b for a, b in zip(before, added, strict=True)]


@untimed
@given(st.integers(0, 9), st.integers(0, 5), st.sampled_from(ROW_TYPES), seeds)
def test_rows_are_placed_and_taken_back(rows, width, dtype, seed):
    local, real, offset, total = rows_case(rows, width, dtype, seed)
    padded = ops.dp_pad(local, real, offset, total)
    assert padded.shape == (total, width) and padded.dtype == dtype
    as_bytes = padded.view(torch.uint8).tolist() if width else [[]] * total
    local_bytes = local.view(torch.uint8).tolist() if width else [[]] * rows
    zero = [0] * (width * local.element_size())
    assert as_bytes == [zero] * offset + local_bytes[:real] + [zero] * (total - offset - real)
    taken = ops.dp_unpad(padded, real, offset)
    assert (
        taken.is_contiguous()
        and (taken.view(torch.uint8).tolist() if width else [[]] * real) == local_bytes[:real]
    )
    taken.view(torch.uint8).fill_(9)  # a copy, not a view
    assert not width or padded.view(torch.uint8).tolist() == as_bytes


@untimed
@given(st.integers(0, 6), st.integers(1, 70), st.sampled_from(FLOATS), seeds)
def test_norm(rows, width, dtype, seed):
    case = norm_case(rows, width, dtype, seed)
    for result, exact in zip(ops.add_rms_norm(*case), exact_norm(case), strict=True):
        assert result.dtype == dtype and result.shape == (rows, width)
        torch.testing.assert_close(result.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=1e-7)


def test_norm_of_a_shard_is_the_shard_of_the_norm():
    x, residual, weight, eps = norm_case(12, 64, torch.bfloat16, 3)
    whole, _ = ops.add_rms_norm(x, residual, weight, eps)
    parts = [ops.add_rms_norm(x[i : i + 5], residual[i : i + 5], weight, eps)[0] for i in (0, 5, 10)]
    assert torch.equal(torch.cat(parts), whole)


@untimed
@given(st.integers(0, 7), st.integers(1, 9), st.integers(0, 9), seeds)
def test_records_come_back(batch, slots, top_k, seed):
    tensors = pack_case(batch, slots, top_k, seed)
    buffer = pack_output(tensors)
    assert buffer.shape == (batch, ops.MtpRecord(slots, top_k).words) and buffer.shape[1] % 8 == 0
    assert buffer.is_contiguous() and buffer.dtype == torch.int32
    output = ops.mtp_unpack_output(buffer, slots, top_k)
    assert output.status_B.tolist() == tensors[2].tolist()
    for b in range(batch):
        accepted = min(max(int(tensors[1][b]), 0), slots)
        assert output.num_accepted_B[b] == accepted
        assert output.token_ids_BS[b].tolist() == tensors[0][b, :accepted].tolist() + [-1] * (slots - accepted)
        if top_k:
            _check_top_k(output, tensors, b, accepted)
    assert (output.topk_ids_BSK is None) == (top_k == 0)


def _check_top_k(output, tensors, b, accepted):
    assert torch.equal(output.topk_ids_BSK[b, :accepted], tensors[3][b, :accepted])
    assert bool((output.topk_ids_BSK[b, accepted:] == -1).all())
    assert torch.equal(output.topk_logprobs_BSK[b, :accepted], tensors[4][b, :accepted])
    assert bool(output.topk_logprobs_BSK[b, accepted:].isnan().all())
    assert torch.equal(output.token_ranks_BS[b, :accepted], tensors[5][b, :accepted])
    assert bool((output.token_ranks_BS[b, accepted:] == -1).all())


def test_unpacking_copies_nothing_and_refuses_other_buffers():
    buffer = pack_output(pack_case(3, 3, 2, 1))
    low, high = buffer.data_ptr(), buffer.data_ptr() + buffer.numel() * 4
    assert all(low <= tensor.data_ptr() < high for tensor in ops.mtp_unpack_output(buffer, 3, 2))
    with pytest.raises(ValueError, match="make an int32 buffer"):
        ops.mtp_unpack_output(buffer, 3, 20)
    with pytest.raises(ValueError, match="make an int32 buffer"):
        ops.mtp_unpack_output(buffer.long(), 3, 2)
    buffer[1, 0] = 4
    with pytest.raises(ValueError, match="none of 0 to 3 tokens"):
        ops.mtp_unpack_output(buffer, 3, 2)


CASES = [
    *[("expert_load_add_counts_", (*counts_case(9, c, d, 1), c)) for c in (False, True) for d in INTEGERS],
    *[("dp_pad", rows_case(rows, 3, torch.bfloat16, 2)) for rows in (0, 5)],
    *[("dp_unpad", (torch.ones(rows + 2, 3), rows, 1)) for rows in (0, 5)],
    *[("add_rms_norm", norm_case(rows, 6, dtype, 1)) for rows in (0, 3) for dtype in FLOATS],
    *[("mtp_pack_output", tuple(pack_case(batch, 3, k, 1))) for batch in (0, 4) for k in (0, 2)],
]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_opcheck(name, arguments):
    torch.library.opcheck(getattr(OPS, name).default, arguments)


X = torch.ones(2, 3)
I32 = torch.ones(2, 3, dtype=torch.int32)
B32 = torch.ones(2, dtype=torch.int32)
SHORT_TOP, INT_TOP = (ops.TopK(I32[:, :, None], logprobs, I32) for logprobs in (X[:, :2, None], I32[:, :, None]))


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (ops.expert_load_add_counts_, (B32, B32[:1], False), ValueError, r"load \[E\] and counts \[E\]"),
        (ops.expert_load_add_counts_, (B32, X[:, 0], False), TypeError, "int32 or int64"),
        (ops.expert_load_add_counts_, (B32, B32.to("meta"), False), ValueError, "one device"),
        (ops.dp_pad, (X, 3, 0, 9), ValueError, "3 rows of 2 do not fit"),
        (ops.dp_pad, (X, 2, 8, 9), ValueError, "do not fit at 8"),
        (ops.dp_pad, (X, -1, 0, 9), ValueError, "must not be negative"),
        (ops.dp_pad, (X.double(), 1, 0, 9), TypeError, "1, 2 or 4 bytes"),
        (ops.dp_pad, (X[0], 1, 0, 9), ValueError, r"\[T, H\]"),
        (ops.dp_unpad, (X, 2, 1), ValueError, "no 2 rows at 1"),
        (ops.dp_unpad, (X, 1, -1), ValueError, "must not be negative"),
        (ops.add_rms_norm, (X, X[:1], X[0], 1e-6), ValueError, r"residual \[T, H\]"),
        (ops.add_rms_norm, (X[:, :0], X[:, :0], X[0, :0], 1e-6), ValueError, "no elements"),
        (ops.add_rms_norm, (X, X.half(), X[0], 1e-6), TypeError, "all float16"),
        (ops.add_rms_norm, (X.double(), X.double(), X[0].double(), 1e-6), TypeError, "all float16"),
        (OPS.mtp_pack_output, (I32, B32, B32, I32.unsqueeze(2)), ValueError, "together or none"),
        (ops.mtp_pack_output, (I32[:, :0], B32, B32), ValueError, "S >= 1"),
        (ops.mtp_pack_output, (I32, B32, B32[:1]), ValueError, r"status \[B\]"),
        (
            ops.mtp_pack_output,
            (I32, B32, B32, SHORT_TOP),
            ValueError,
            r"\[B, S, K\]",
        ),
        (ops.mtp_pack_output, (I32, B32, B32.long()), TypeError, "int32 tensors"),
        (
            ops.mtp_pack_output,
            (I32, B32, B32, INT_TOP),
            TypeError,
            "float32 for",
        ),
    ],
)
def test_wrong_arguments(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_infinite_and_nan_rows_stay_in_their_rows():
    x = torch.ones(3, 4)
    x[1, 2], x[2, 0] = math.inf, math.nan
    y, total = ops.add_rms_norm(x, torch.zeros(3, 4), torch.ones(4), 0.0)
    assert torch.equal(y[0], torch.ones(4)) and total[1, 2] == math.inf
    assert y[1, 2].isnan() and bool((y[1, :2] == 0).all()) and bool(y[2].isnan().all())
