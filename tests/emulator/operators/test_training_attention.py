# SPDX-License-Identifier: Apache-2.0
"""npu_fusion_attention on the emulator, against float64: layouts, masks, and the statistics of rows.

Shapes: B sequences, N query heads, M key heads, S queries, K keys, D head size.
"""

from __future__ import annotations

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator

B, N, S, K, D = 2, 4, 5, 7, 8
SCALE = 0.3


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output [B, N, S, D], and of each row the largest score and the sum of the exponentials less it."""
    share = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(share, 1) for x in (key, value))
    scores = query.double() @ key.mT
    scores = (scores if bias is None else scores + bias.double()) * SCALE
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    largest = scores.amax(-1)
    weights = (scores - largest[..., None]).exp()
    return weights @ value / weights.sum(-1, keepdim=True), largest, weights.sum(-1)


def in_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    """[B, N, S, D] in another layout."""
    return {
        "BNSD": lambda: x,
        "BSND": lambda: x.transpose(1, 2),
        "BSH": lambda: x.transpose(1, 2).flatten(2),
        "SBH": lambda: x.permute(2, 0, 1, 3).flatten(2),
    }[layout]().contiguous()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("num_key_heads", (N, 2))
@pytest.mark.parametrize("layout", ("BNSD", "BSND", "BSH", "SBH"))
def test_layouts(dtype: torch.dtype, num_key_heads: int, layout: str) -> None:
    import torch_npu

    query = torch.randn(B, N, S, D).to(dtype)
    key, value = torch.randn(2, B, num_key_heads, K, D).to(dtype)
    mask = torch.rand(B, N if layout == "BSH" else 1, S, K) < 0.3
    bias = torch.randn(B, N, S, K).to(dtype)
    mask[..., 0] = False
    out, largest, total, *_ = torch_npu.npu_fusion_attention(
        *(in_layout(x, layout).npu() for x in (query, key, value)), N, layout, pse=bias.npu(),
        atten_mask=mask.npu(), scale=SCALE,
    )  # fmt: skip
    expected, rows_largest, rows_total = reference(query, key, value, mask, bias)
    assert_close(out, in_layout(expected, layout))
    for actual, wanted in ((largest, rows_largest), (total, rows_total)):
        assert actual.shape == (B, N, S, 8)
        assert_close(actual, wanted[..., None].expand(-1, -1, -1, 8))


@pytest.mark.parametrize(("mode", "shift"), ((2, 0), (3, K - S)))
def test_causal_masks(mode: int, shift: int) -> None:
    import torch_npu

    query, key, value = torch.randn(B, N, S, D), torch.randn(B, N, K, D), torch.randn(B, N, K, D)
    compressed = torch.triu(torch.ones(2048, 2048, dtype=torch.bool), 1).npu()
    out, *_ = torch_npu.npu_fusion_attention(
        query.npu(), key.npu(), value.npu(), N, "BNSD", atten_mask=compressed, scale=SCALE, sparse_mode=mode
    )
    hidden = torch.arange(K) > torch.arange(S)[:, None] + shift
    assert_close(out, reference(query, key, value, hidden, None)[0])


def test_packed_sequences() -> None:
    import torch_npu

    lengths, key_lengths = (3, 1, 4), (5, 2, 4)
    query = torch.randn(sum(lengths), N, D)
    key, value = torch.randn(2, sum(key_lengths), N, D)
    ends, key_ends = torch.tensor(lengths).cumsum(0).tolist(), torch.tensor(key_lengths).cumsum(0).tolist()
    out, largest, *_ = torch_npu.npu_fusion_attention(
        query.npu(), key.npu(), value.npu(), N, "TND", scale=SCALE, actual_seq_qlen=ends, actual_seq_kvlen=key_ends
    )
    expected, expected_largest = [], []
    parts = zip(query.split(lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    for one in parts:
        result = reference(*(x.transpose(0, 1)[None] for x in one), None, None)
        expected.append(result[0][0].transpose(0, 1))
        expected_largest.append(result[1][0].transpose(0, 1))
    assert_close(out, torch.cat(expected))
    assert_close(largest[..., 0], torch.cat(expected_largest))
