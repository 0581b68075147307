# SPDX-License-Identifier: Apache-2.0
"""The `_C` and `_moe_C` operators in plain torch, called as vLLM calls them."""

from __future__ import annotations

import ast
import inspect
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.cpu_platform.kernel_launch import upstream_source
from vllm_ascend_ext.integration.cpu_platform import operators

BLOCK = 16


@pytest.fixture(scope="module", autouse=True)
def defined_operators() -> None:
    operators.define_operators()


@dataclass
class Batch:
    """Requests with a paged cache whose blocks are scattered over a larger pool."""

    query_lens: list[int]
    seq_lens: list[int]
    num_heads: int = 4
    num_kv_heads: int = 4
    head_size: int = 32
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(sum(self.seq_lens))

        def random(tokens: int, heads: int) -> Tensor:
            return torch.randn(tokens, heads, self.head_size, generator=g).to(self.dtype)

        self.query = random(sum(self.query_lens), self.num_heads)
        self.keys = [random(n, self.num_kv_heads) for n in self.seq_lens]
        self.values = [random(n, self.num_kv_heads) for n in self.seq_lens]
        width = -(-max(self.seq_lens) // BLOCK)
        num_blocks = width * len(self.seq_lens) + 3
        self.block_table = torch.randperm(num_blocks, generator=g)[: width * len(self.seq_lens)]
        self.block_table = self.block_table.view(-1, width).int()
        # vLLM's layout: keys and values of a block share one buffer and are views with gaps.
        shape = (num_blocks, self.num_kv_heads, BLOCK * 2, self.head_size)
        self.cache = torch.full(shape, float("nan"), dtype=self.dtype)
        self.key_cache, self.value_cache = self.cache.chunk(2, dim=2)
        for row, key, value in zip(self.block_table, self.keys, self.values, strict=True):
            position = torch.arange(len(key))
            slots = row[position // BLOCK].long() * BLOCK + position % BLOCK
            padding = torch.full((2,), -1)
            torch.ops._C.cpu_attn_reshape_and_cache(
                F.pad(key, (0, 0, 0, 0, 0, 2)), F.pad(value, (0, 0, 0, 0, 0, 2)), self.key_cache,
                self.value_cache, torch.cat([slots, padding]), "vec", 1.0, 1.0, "auto",
            )  # fmt: skip

    def attention(
        self, causal: bool = True, window: tuple[int, int] = (-1, -1), softcap: float = 0.0,
        alibi: Tensor | None = None, sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        starts = torch.tensor([0, *self.query_lens]).cumsum(0).int()
        output = torch.full_like(self.query, float("nan"))
        metadata = torch.ops._C.get_scheduler_metadata(
            len(self.seq_lens), self.num_heads, self.num_kv_heads, self.head_size,
            torch.tensor(self.seq_lens),
            self.dtype, starts, causal, -1, "vec", True,
        )  # fmt: skip
        torch.ops._C.cpu_attention_with_kv_cache(
            self.query, self.key_cache, self.value_cache, output, starts, torch.tensor(self.seq_lens).int(),
            self.head_size**-0.5, causal, alibi, *window, self.block_table, softcap, metadata, sinks, 1.0,
            1.0,
            "auto",
        )  # fmt: skip
        return output

    def reference(self, causal: bool = True, window: tuple[int, int] = (-1, -1), alibi: Any = None) -> Tensor:
        """torch's scaled_dot_product_attention in float64, request by request."""
        outputs = []
        queries = self.query.split(self.query_lens)
        for query, key, value in zip(queries, self.keys, self.values, strict=True):
            bias = attention_bias(len(query), len(key), causal, window, alibi)
            q, k, v = (x.double().transpose(0, 1).unsqueeze(0) for x in (query, key, value))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
            outputs.append(out.squeeze(0).transpose(0, 1))
        return torch.cat(outputs)


def attention_bias(
    num_queries: int, num_keys: int, causal: bool, window: tuple[int, int], alibi: Tensor | None
) -> Tensor:
    """[1 or H, queries, keys] float64, entry by entry."""
    bias = torch.zeros(1 if alibi is None else len(alibi), num_queries, num_keys, dtype=torch.float64)
    for i in range(num_queries):
        position = i + (num_keys - num_queries if causal else 0)
        for n in range(num_keys):
            if alibi is not None:
                bias[:, i, n] = alibi.double() * (n - position)
            outside = (window[0] >= 0 and n < position - window[0]) or (
                window[1] >= 0 and n > position + window[1]
            )
            if outside or (causal and n > position):
                bias[:, i, n] = -math.inf
    return bias


PREFILL, DECODE, MIXED = ([5, 33], [5, 33]), ([1, 1, 1], [1, 48, 37]), ([1, 7, 0, 20], [40, 19, 16, 20])


@pytest.mark.parametrize(("query_lens", "seq_lens"), [PREFILL, DECODE, MIXED])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [(-1, -1), (9, 0), (0, 0)])
def test_causal_attention(
    query_lens: list[int], seq_lens: list[int], num_kv_heads: int, window: tuple[int, int]
) -> None:
    batch = Batch(query_lens, seq_lens, num_kv_heads=num_kv_heads)
    expected = batch.reference(window=window).float()
    torch.testing.assert_close(batch.attention(window=window), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [(-1, -1), (3, 3), (-1, 2), (5, -1)])
def test_attention_without_causal_order(window: tuple[int, int]) -> None:
    """Encoder and cross attention: every query sees the whole request, or a window around its index."""
    batch = Batch([12, 3], [12, 30], num_kv_heads=2)
    expected = batch.reference(causal=False, window=window).float()
    torch.testing.assert_close(batch.attention(causal=False, window=window), expected, atol=2e-5, rtol=2e-5)


def test_alibi() -> None:
    batch, slopes = Batch(*MIXED, num_kv_heads=2), torch.tensor([0.5, 0.25, 0.125, 1.0])
    torch.testing.assert_close(
        batch.attention(alibi=slopes), batch.reference(alibi=slopes).float(), atol=2e-5, rtol=2e-5
    )


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -2.0, 40.0, 0.0])])
@pytest.mark.parametrize("softcap", [0.0, 0.7])
def test_softcap_and_sinks(softcap: float, sinks: Tensor | None) -> None:
    """Against a softmax in float64: scores are capped before the mask, a sink is a key without value."""
    batch = Batch([1, 6], [20, 18], num_kv_heads=2)
    expected = []
    for query, key, value in zip(batch.query.split(batch.query_lens), batch.keys, batch.values, strict=True):
        scores = torch.einsum("qhd,nhd->hqn", query.double(), key.double().repeat_interleave(2, 1)) / 32**0.5
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        scores += attention_bias(len(query), len(key), True, (-1, -1), None)
        if sinks is not None:
            column = sinks.double().view(-1, 1, 1).expand(-1, len(query), 1)
            scores = torch.cat([scores, column], dim=2)
        weights = scores.softmax(dim=2)[:, :, : len(key)]
        expected.append(torch.einsum("hqn,nhd->qhd", weights, value.double().repeat_interleave(2, 1)))
    actual = batch.attention(softcap=softcap, sinks=sinks)
    torch.testing.assert_close(actual, torch.cat(expected).float(), atol=2e-5, rtol=2e-5)


def test_scores_are_computed_in_bounded_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, tiles, attend = Batch(*PREFILL), [], operators._attend
    whole = batch.attention(window=(9, 0))

    def counted(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        tiles.append(4 * query.shape[0] * query.shape[1] * key.shape[1])
        return attend(query, key, *rest)

    monkeypatch.setattr(operators, "_attend", counted)
    monkeypatch.setattr(operators, "SCORE_BYTES", 2000)
    torch.testing.assert_close(batch.attention(window=(9, 0)), whole)
    assert len(tiles) == 1 + math.ceil(33 / 3)
    assert max(tiles) <= 2000


def test_bfloat16_rounds_only_the_result() -> None:
    batch = Batch(*MIXED, num_kv_heads=2, dtype=torch.bfloat16)
    torch.testing.assert_close(batch.attention(), batch.reference().bfloat16(), atol=0, rtol=2**-7)


def test_query_without_keys_gets_zeros() -> None:
    batch = Batch([6], [3])
    output = batch.attention(causal=False, window=(1, -1))  # queries 4 and 5 look past the three keys
    assert output[5].eq(0).all() and output[:4].isfinite().all() and output[0].ne(0).any()


def test_cache_write_skips_padding_and_leaves_other_slots() -> None:
    batch = Batch([1], [5])
    assert int(batch.cache.isfinite().sum()) == 2 * 5 * batch.num_kv_heads * batch.head_size


@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "fp8_e5m2", "int8_per_token_head"])
def test_quantised_cache_is_refused(kv_cache_dtype: str) -> None:
    batch = Batch([1], [5])
    with pytest.raises(NotImplementedError, match=f"cpu_attn_reshape_and_cache.*{kv_cache_dtype}"):
        torch.ops._C.cpu_attn_reshape_and_cache(
            batch.keys[0], batch.values[0], batch.key_cache, batch.value_cache, torch.arange(5), "vec",
            1.0, 1.0,
            kv_cache_dtype,
        )  # fmt: skip


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
def test_routing(scoring: str, renormalize: bool, with_bias: bool, ids_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokens, experts, topk = 9, 8, 3
    gating = torch.randint(-2, 3, (tokens, experts)).bfloat16()  # many ties
    bias = torch.tensor([0, 0, 2.0, 0, 0, -2.0, 0, 0]) if with_bias else None
    weights, ids = torch.empty(tokens, topk), torch.empty(tokens, topk, dtype=ids_dtype)
    rows = torch.empty(tokens, topk, dtype=torch.int32)
    getattr(torch.ops._moe_C, f"topk_{scoring}")(weights, ids, rows, gating, renormalize, bias)
    scores = gating.float().softmax(1) if scoring == "softmax" else gating.float().sigmoid()
    for token in range(tokens):
        choice = scores[token] + (bias if bias is not None else 0)
        best = sorted(range(experts), key=lambda e: (-float(choice[e]), e))[:topk]  # noqa: B023
        chosen = scores[token, best]
        assert ids[token].tolist() == best
        torch.testing.assert_close(weights[token], chosen / chosen.sum() if renormalize else chosen)
        assert rows[token].tolist() == [k * tokens + token for k in range(topk)]


def test_definition_is_repeatable_and_leaves_existing_operators() -> None:
    assert operators.define_operators() == ()


def test_memory_env_accepts_what_the_worker_passes() -> None:
    assert torch.ops._C.init_cpu_memory_env([0]) is None


def test_functions_match_their_schemas() -> None:
    for namespace, schema, function in operators.OPERATORS:
        name = schema.partition("(")[0]
        arguments = getattr(getattr(torch.ops, namespace), name).default._schema.arguments
        assert [a.name for a in arguments] == list(inspect.signature(function).parameters), name


def test_schemas_accept_vllms_calls() -> None:
    """Every call of these operators in vLLM passes as many positional arguments as the schema has."""
    count = {schema.partition("(")[0]: schema.count(",") + 1 for _, schema, _ in operators.OPERATORS}
    called = set()
    for path in ("_custom_ops.py", "v1/worker/cpu_worker.py"):
        for node in ast.walk(upstream_source(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = node.func.attr
            if name in count and ast.unparse(node.func).startswith("torch.ops._"):
                called.add(name)
                assert (len(node.args), node.keywords) == (count[name], []), name
    assert called == set(count)
