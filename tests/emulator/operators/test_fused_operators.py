# SPDX-License-Identifier: Apache-2.0
"""torch_npu's fused operators on the emulator, against the same mathematics in plain torch on the CPU.

Shapes: T = tokens, N = query heads, M = key heads, D = head size, E = experts, K = experts a token, H = hidden.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator

DTYPES = (torch.float32, torch.bfloat16)
BLOCK_SIZE = 4


def rms_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gamma.float()


def rotate_halves(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


# Norms and activations


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype: torch.dtype) -> None:
    import torch_npu

    x, residual, gamma = (torch.randn(shape, dtype=dtype) for shape in ((3, 5, 8), (3, 5, 8), (8,)))
    y, rstd = torch_npu.npu_rms_norm(x.npu(), gamma.npu(), 1e-6)
    assert_close(y, rms_norm(x, gamma))
    assert rstd.dtype == torch.float32
    y, _, total = torch_npu.npu_add_rms_norm(x.npu(), residual.npu(), gamma.npu(), 1e-6)
    assert_close(total, x + residual)
    assert_close(y, rms_norm(x + residual, gamma))


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype: torch.dtype) -> None:
    import torch_npu

    x = torch.randn(4, 12, dtype=dtype)
    gate, up = x.float().chunk(2, -1)
    assert_close(torch_npu.npu_swiglu(x.npu()), torch.nn.functional.silu(gate) * up)


# Rotary embeddings and caches


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_embeddings(dtype: torch.dtype) -> None:
    import torch_npu

    x, cos, sin = (torch.randn(shape, dtype=dtype) for shape in ((2, 3, 4, 64), (2, 1, 4, 64), (2, 1, 4, 64)))
    halves = x.float() * cos.float() + rotate_halves(x.float()) * sin.float()
    assert_close(torch_npu.npu_rotary_mul(x.npu(), cos.npu(), sin.npu()), halves)
    gathered = x.float().unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    interleaved = gathered * cos.float() + rotate_halves(gathered) * sin.float()
    assert_close(torch_npu.npu_interleave_rope(x.npu(), cos.npu(), sin.npu()), interleaved)


def test_scatter_pa_kv_cache_skips_negative_slots() -> None:
    import torch_npu

    key, value = torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    caches = [torch.zeros(5, BLOCK_SIZE, 2, 16, device="npu") for _ in range(2)]
    slots = torch.tensor([6, -1, 17], dtype=torch.int32)
    torch_npu.npu_scatter_pa_kv_cache(key.npu(), value.npu(), *caches, slots.npu(), cache_mode="Norm")
    for cache, rows in zip(caches, (key, value), strict=True):
        expected = torch.zeros(5 * BLOCK_SIZE, 2, 16)
        expected[[6, 17]] = rows[[0, 2]]
        assert torch.equal(cache.cpu().flatten(0, 1), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kv_rmsnorm_rope_cache(dtype: torch.dtype) -> None:
    import torch_npu

    latent, rope = 512, 64
    kv = torch.randn(3, 1, 1, latent + rope, dtype=dtype)
    gamma, cos, sin = (torch.randn(shape, dtype=dtype) for shape in ((latent,), (3, 1, 1, rope), (3, 1, 1, rope)))
    rope_cache = torch.zeros(2, BLOCK_SIZE, 1, rope, dtype=dtype, device="npu")
    latent_cache = torch.zeros(2, BLOCK_SIZE, 1, latent, dtype=dtype, device="npu")
    index = torch.tensor([5, -1, 2])
    _, _, k_rope, c_kv = torch_npu.npu_kv_rmsnorm_rope_cache(
        kv.npu(), gamma.npu(), cos.npu(), sin.npu(), index.npu(), rope_cache, latent_cache,
        epsilon=1e-6, cache_mode="PA", is_output_kv=True,
    )  # fmt: skip
    gathered = kv[..., latent:].float().unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    expected_rope = gathered * cos.float() + rotate_halves(gathered) * sin.float()
    expected_latent = rms_norm(kv[..., :latent], gamma)
    assert_close(k_rope, expected_rope)
    assert_close(c_kv, expected_latent)
    for cache, rows in ((rope_cache, expected_rope), (latent_cache, expected_latent)):
        slots = torch.zeros(2 * BLOCK_SIZE, rows.shape[-1])
        slots[[5, 2]] = rows[[0, 2], 0, 0]
        assert_close(cache.flatten(0, 2), slots)


# Attention


def attend(
    query_SND: torch.Tensor, key_KMD: torch.Tensor, value_KMD: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one request and its log-sum-exp ``[S, N]``; causal aligned to the last key."""
    groups = query_SND.shape[1] // key_KMD.shape[1]
    key, value = (x.float().repeat_interleave(groups, 1) for x in (key_KMD, value_KMD))
    scores = torch.einsum("snd,knd->nsk", query_SND.float(), key) * scale
    if causal:
        queries, keys = scores.shape[1:]
        scores = scores.masked_fill(torch.ones(queries, keys).triu(keys - queries + 1).bool(), -math.inf)
    return torch.einsum("nsk,knd->snd", scores.softmax(-1), value), scores.logsumexp(-1).t()


def paged(rows: list[torch.Tensor], block_table: torch.Tensor) -> torch.Tensor:
    """The rows ``[K, ...]`` of each request in blocks ``[blocks, BLOCK_SIZE, ...]``; the rest is NaN."""
    cache = torch.full((int(block_table.max()) + 1, BLOCK_SIZE, *rows[0].shape[1:]), math.nan, dtype=rows[0].dtype)
    for request, states in enumerate(rows):
        for token, state in enumerate(states):
            cache[block_table[request, token // BLOCK_SIZE], token % BLOCK_SIZE] = state
    return cache


CAUSAL_MASK = torch.ones(2048, 2048, dtype=torch.int8).triu(1)
LENGTHS = ((3, 3), (1, 9), (2, 6))  # (query tokens, key tokens) of each request
BLOCK_TABLE = torch.tensor([[3, 0, 0], [1, 6, 4], [2, 5, 0]], dtype=torch.int32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_paged", (True, False))
@pytest.mark.parametrize("causal", (True, False))
def test_packed_attention(dtype: torch.dtype, is_paged: bool, causal: bool) -> None:
    import torch_npu

    heads, key_heads, size = 4, 2, 8
    queries = [torch.randn(count, heads, size, dtype=dtype) for count, _ in LENGTHS]
    keys, values = ([torch.randn(count, key_heads, size, dtype=dtype) for _, count in LENGTHS] for _ in range(2))
    table: dict[str, Any] = {}
    key, value = torch.cat(keys), torch.cat(values)
    key_ends = torch.tensor([count for _, count in LENGTHS]).cumsum(0).tolist()
    if is_paged:
        key, value = (paged(rows, BLOCK_TABLE).flatten(2) for rows in (keys, values))
        key_ends = [count for _, count in LENGTHS]
        table = {"block_table": BLOCK_TABLE.npu(), "block_size": BLOCK_SIZE}
    out, lse = torch_npu.npu_fused_infer_attention_score(
        torch.cat(queries).npu(), key.npu(), value.npu(), input_layout="TND", num_heads=heads,
        num_key_value_heads=key_heads, scale=0.3, softmax_lse_flag=True,
        actual_seq_lengths=torch.tensor([count for count, _ in LENGTHS]).cumsum(0).tolist(),
        actual_seq_lengths_kv=key_ends, sparse_mode=3 if causal else 0,
        atten_mask=CAUSAL_MASK.npu() if causal else None, **table,
    )  # fmt: skip
    expected = [attend(q, k, v, 0.3, causal) for q, k, v in zip(queries, keys, values, strict=True)]
    assert_close(out, torch.cat([result for result, _ in expected]))
    assert_close(lse.squeeze(-1), torch.cat([lse for _, lse in expected]))


def test_attention_without_keys() -> None:
    """A chunk of earlier tokens may have none of a request: zeros, and +inf, by which parts are joined."""
    import torch_npu

    query, key, value = torch.randn(5, 2, 8), torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    out, lse = torch_npu.npu_fused_infer_attention_score(
        query.npu(), key.npu(), value.npu(), input_layout="TND", num_heads=2, num_key_value_heads=2, scale=0.3,
        softmax_lse_flag=True, actual_seq_lengths=[3, 5], actual_seq_lengths_kv=[3, 3],
    )  # fmt: skip
    expected, sums = attend(query[:3], key, value, 0.3, causal=False)
    assert_close(out, torch.cat([expected, torch.zeros(2, 2, 8)]))
    assert_close(lse.squeeze(-1), torch.cat([sums, torch.full((2, 2), math.inf)]))


@pytest.mark.parametrize("layout", ("BSND", "BNSD", "BSH", "BNSD_BSND"))
def test_padded_attention(layout: str) -> None:
    import torch_npu

    query, key, value = (torch.randn(2, 5, heads, 8) for heads in (4, 2, 2))
    lengths = [5, 3]
    forms = {"BSND": lambda x: x, "BNSD": lambda x: x.transpose(1, 2).contiguous(), "BSH": lambda x: x.flatten(2)}
    into, back = (layout.split("_") * 2)[:2]
    out, _ = torch_npu.npu_fused_infer_attention_score(
        *(forms[into](x).npu() for x in (query, key, value)), input_layout=layout, num_heads=4,
        num_key_value_heads=2, scale=0.3, actual_seq_lengths=lengths, actual_seq_lengths_kv=lengths,
    )  # fmt: skip
    expected = torch.zeros_like(query)
    for request, length in enumerate(lengths):
        rows = (x[request, :length] for x in (query, key, value))
        expected[request, :length] = attend(*rows, 0.3, causal=False)[0]
    assert_close(out, forms[back](expected))


def test_attention_with_a_full_mask() -> None:
    import torch_npu

    query, key, value = (torch.randn(2, 3, 2, 8) for _ in range(3))
    mask = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.bool)  # the last query sees nothing
    out, _ = torch_npu.npu_fused_infer_attention_score(
        query.npu(), key.npu(), value.npu(), input_layout="BSND", num_heads=2, scale=0.3, atten_mask=mask.npu()
    )
    scores = torch.einsum("bsnd,bknd->bnsk", query, key) * 0.3
    weights = scores.masked_fill(mask, -math.inf).softmax(-1).nan_to_num(0)
    assert_close(out, torch.einsum("bnsk,bknd->bsnd", weights, value))


@pytest.mark.parametrize("dtype", DTYPES)
def test_latent_attention_of_decoding(dtype: torch.dtype) -> None:
    """MLA: one latent key head that is also the value, its rope part apart, paged, output by head."""
    import torch_npu

    heads, latent, rope = 4, 512, 64
    lengths = [count for _, count in LENGTHS]
    query = torch.randn(3, heads, 1, latent, dtype=dtype)
    query_rope = torch.randn(3, heads, 1, rope, dtype=dtype)
    keys, ropes = ([torch.randn(count, 1, size, dtype=dtype) for count in lengths] for size in (latent, rope))
    key, key_rope = (paged(rows, BLOCK_TABLE).transpose(1, 2).contiguous() for rows in (keys, ropes))
    out, _ = torch_npu.npu_fused_infer_attention_score_v2(
        query.npu(), key.npu(), key.npu(), query_rope=query_rope.npu(), key_rope=key_rope.npu(),
        num_query_heads=heads, num_key_value_heads=1, input_layout="BNSD_NBSD", softmax_scale=0.05,
        block_table=BLOCK_TABLE.npu(), block_size=BLOCK_SIZE, actual_seq_kvlen=lengths,
    )  # fmt: skip
    for request in range(3):
        whole = torch.cat((query[request], query_rope[request]), -1).transpose(0, 1)
        whole_key = torch.cat((keys[request], ropes[request]), -1)
        expected, _ = attend(whole, whole_key, keys[request], 0.05, causal=False)
        assert_close(out[:, request], expected.transpose(0, 1))


def test_workspace_of_attention_that_a_graph_updates() -> None:
    """vllm-ascend asks for it before a capture."""
    import torch_npu

    query, key = torch.randn(2, 1, 4, 8).npu(), torch.randn(2, 5, 2, 8).npu()
    settings = {"input_layout": "BSND", "num_key_value_heads": 2, "actual_seq_lengths_kv": [5, 3]}
    for workspace in (
        torch_npu._npu_fused_infer_attention_score_get_max_workspace(query, key, key, num_heads=4, **settings),
        torch_npu._npu_fused_infer_attention_score_v2_get_max_workspace(
            query, key, key, num_query_heads=4, input_layout="BSND", num_key_value_heads=2,
            actual_seq_kvlen=[5, 3],
        ),
    ):  # fmt: skip
        assert workspace.device.type == "npu" and workspace.dim() == 1


def test_latent_attention_of_prompts() -> None:
    import torch_npu

    heads, size, rope = 2, 128, 64
    query, key, value = (torch.randn(5, heads, size) for _ in range(3))
    query_rope, key_rope = (torch.randn(5, heads, rope) for _ in range(2))
    out, lse = torch_npu.npu_fused_infer_attention_score(
        query.npu(), key.npu(), value.npu(), query_rope=query_rope.npu(), key_rope=key_rope.npu(),
        num_heads=heads, num_key_value_heads=heads, input_layout="TND", scale=0.1, softmax_lse_flag=True,
        sparse_mode=3, atten_mask=CAUSAL_MASK.npu(), actual_seq_lengths=[2, 5], actual_seq_lengths_kv=[2, 5],
    )  # fmt: skip
    for begin, end in ((0, 2), (2, 5)):
        rows = slice(begin, end)
        whole, whole_key = torch.cat((query, query_rope), -1)[rows], torch.cat((key, key_rope), -1)[rows]
        expected, expected_lse = attend(whole, whole_key, value[rows], 0.1, causal=True)
        assert_close(out[rows], expected)
        assert_close(lse[rows].squeeze(-1), expected_lse)


def test_attention_update_joins_parts() -> None:
    import torch_npu

    query, key, value = torch.randn(5, 2, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    parts = [attend(query, key[rows], value[rows], 0.3, causal=False) for rows in (slice(0, 4), slice(4, 9))]
    out, _ = torch_npu.npu_attention_update(
        [lse.reshape(-1).npu() for _, lse in parts], [result.reshape(-1, 8).npu() for result, _ in parts], 0
    )
    assert_close(out, attend(query, key, value, 0.3, causal=False)[0].reshape(-1, 8))
