# SPDX-License-Identifier: Apache-2.0
"""The lightning indexer and sparse attention on the emulator, against the same mathematics in float64 on the CPU.

Shapes: T = query tokens, N = heads, D = head size, L = latent, R = rope, K = chosen places, B = blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator

HEAD_SIZE, LATENT, ROPE, BLOCK_SIZE = 128, 512, 64, 16
DTYPES = (torch.float32, torch.bfloat16)
# query tokens and keys of each request: a prefill, a chunk behind earlier keys, a decode, one without queries
REQUESTS = ((5, 5), (7, 40), (1, 33), (0, 9))
NUM_QUERIES, NUM_KEYS = (sum(lengths) for lengths in zip(*REQUESTS, strict=True))


@dataclass
class Operands:
    """Queries and keys of all requests, packed, and their lengths as the operators take them."""

    lengths: dict[str, torch.Tensor]
    spans: list[tuple[slice, slice]]  # of each request its queries and its keys

    def laid_out(self, keys: torch.Tensor, layout: str) -> torch.Tensor:
        """Keys [keys, 1, ..] packed (TND), or scattered to blocks (PA_BSND) among ones that nobody names."""
        if layout == "TND":
            return keys.npu()
        cache = torch.full((16, BLOCK_SIZE, *keys.shape[1:]), torch.nan, dtype=keys.dtype)
        for (_, span), blocks in zip(self.spans, self.lengths["block_table"], strict=True):
            for place, key in enumerate(keys[span]):
                cache[blocks[place // BLOCK_SIZE], place % BLOCK_SIZE] = key
        return cache.npu()

    def named(self, layout: str, key_lengths: str) -> dict[str, Any]:
        lengths = self.lengths if layout == "PA_BSND" else self.lengths | {"keys": self.lengths["key_ends"]}
        table = {"block_table": lengths["block_table"].npu()} if layout == "PA_BSND" else {}
        return table | {
            "actual_seq_lengths_query": lengths["query_ends"].npu(),
            key_lengths: lengths["keys"].npu(),
        }


@pytest.fixture
def operands() -> Operands:
    queries, keys = (torch.tensor(of, dtype=torch.int32) for of in zip(*REQUESTS, strict=True))
    query_ends, key_ends = queries.cumsum(0).int(), keys.cumsum(0).int()
    spans = [
        (slice(q - num_queries, q), slice(k - num_keys, k))
        for q, k, (num_queries, num_keys) in zip(query_ends.tolist(), key_ends.tolist(), REQUESTS, strict=True)
    ]
    table = torch.randperm(16)[:12].view(4, 3).int()
    lengths = {"query_ends": query_ends, "keys": keys, "key_ends": key_ends, "block_table": table}
    return Operands(lengths, spans)


def visible(queries: int, keys: int, sparse_mode: int) -> torch.Tensor:
    """Whether a query sees a key, [queries, keys]: with mode 3 the last query sees all."""
    seen = torch.ones(queries, keys, dtype=torch.bool)
    return seen if sparse_mode == 0 else seen.tril(keys - queries)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["PA_BSND", "TND"])
@pytest.mark.parametrize(("count", "sparse_mode"), [(4, 3), (2048, 3), (4, 0)])
def test_lightning_indexer(
    operands: Operands, count: int, sparse_mode: int, layout: str, dtype: torch.dtype
) -> None:
    """The best keys come first, and none where a query sees fewer than it may choose."""
    import torch_npu

    query_TND = torch.randn(NUM_QUERIES, 3, HEAD_SIZE, dtype=dtype)
    key = torch.randn(NUM_KEYS, 1, HEAD_SIZE, dtype=dtype)
    weights_TN = torch.randn(NUM_QUERIES, 3, dtype=dtype)
    indices, _ = torch_npu.npu_lightning_indexer(
        query_TND.npu(), operands.laid_out(key, layout), weights_TN.npu(), layout_query="TND", layout_key=layout,
        sparse_count=count, sparse_mode=sparse_mode, **operands.named(layout, "actual_seq_lengths_key"),
    )  # fmt: skip
    for queries, keys in operands.spans:
        alike = torch.einsum("tnd,kd->tnk", query_TND[queries].double(), key[keys, 0].double()).relu()
        scores = torch.einsum("tnk,tn->tk", alike, weights_TN[queries].double())
        seen = visible(*scores.shape, sparse_mode)
        for scores_K, seen_K, chosen in zip(scores, seen, indices[queries, 0].cpu().long(), strict=True):
            assert_best(chosen, scores_K, seen_K)


def assert_best(chosen: torch.Tensor, scores_K: torch.Tensor, seen_K: torch.Tensor) -> None:
    """By their scores, for several keys may have one: those that no head finds alike have 0."""
    number = min(len(chosen), int(seen_K.sum()))
    assert (chosen[number:] == -1).all()
    best = chosen[:number]
    assert seen_K[best].all() and len(best.unique()) == number
    expected = scores_K[seen_K].sort(descending=True).values[:number]
    torch.testing.assert_close(scores_K[best], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["PA_BSND", "TND"])
@pytest.mark.parametrize(("sparse_block", "sparse_mode"), [(1, 3), (1, 0), (4, 3)])
def test_sparse_flash_attention(
    operands: Operands, sparse_block: int, sparse_mode: int, layout: str, dtype: torch.dtype
) -> None:
    """A query attends to what its indices stand for and it may see; one that sees nothing has the value 0."""
    import torch_npu

    query = torch.randn(NUM_QUERIES, 2, LATENT + ROPE, dtype=dtype)
    key = torch.randn(NUM_KEYS, 1, LATENT + ROPE, dtype=dtype)
    indices = torch.full((NUM_QUERIES, 1, 6), -1, dtype=torch.int32)
    expected = torch.zeros(NUM_QUERIES, 2, LATENT, dtype=torch.float64)
    scale = 0.05
    for queries, keys in operands.spans:
        seen = visible(queries.stop - queries.start, keys.stop - keys.start, sparse_mode)
        for row, seen_K in enumerate(seen, start=queries.start):
            chosen = torch.randperm(-(-len(seen_K) // sparse_block))[: 1 + row % 6]
            indices[row, 0, : len(chosen)] = chosen
            attended = seen_K & torch.isin(torch.arange(len(seen_K)) // sparse_block, chosen)
            if not attended.any():
                continue
            rows = key[keys, 0][attended].double()
            probabilities = (query[row].double() @ rows.T * scale).softmax(-1)
            expected[row] = probabilities @ rows[:, :LATENT]
    cache = operands.laid_out(key[..., :LATENT].contiguous(), layout)
    out, _, _ = torch_npu.npu_sparse_flash_attention(
        query[..., :LATENT].contiguous().npu(), cache, cache, indices.npu(), scale,
        query_rope=query[..., LATENT:].contiguous().npu(),
        key_rope=operands.laid_out(key[..., LATENT:].contiguous(), layout), sparse_block_size=sparse_block,
        layout_query="TND", layout_kv=layout, sparse_mode=sparse_mode, attention_mode=2,
        **operands.named(layout, "actual_seq_lengths_kv"),
    )  # fmt: skip
    assert_close(out, expected)
    assert (expected == 0).all(-1).any() == (sparse_mode == 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_vllm_ascends_own(operands: Operands, dtype: torch.dtype) -> None:
    """Its attention tells the sums for paged keys, of which ranks that hold parts of the keys make one softmax."""
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    query = torch.randn(NUM_QUERIES + 2, 2, LATENT + ROPE, dtype=dtype)  # the last two are of no request
    key = torch.randn(NUM_KEYS, 1, LATENT + ROPE, dtype=dtype)
    indices = torch.full((NUM_QUERIES + 2, 1, 6), -1, dtype=torch.int32)
    largest, sums = torch.full((NUM_QUERIES + 2, 2), -torch.inf), torch.zeros(NUM_QUERIES + 2, 2)
    expected = torch.zeros(NUM_QUERIES + 2, 2, LATENT, dtype=torch.float64)
    for queries, keys in operands.spans:
        for row in range(queries.start, queries.stop):
            chosen = torch.randperm(keys.stop - keys.start)[: row % 6]
            indices[row, 0, : len(chosen)] = chosen
            if not len(chosen):
                continue
            rows = key[keys, 0][chosen].double()
            scores = query[row].double() @ rows.T * 0.05
            largest[row], sums[row] = scores.amax(-1), (scores - scores.amax(-1, keepdim=True)).exp().sum(-1)
            expected[row] = scores.softmax(-1) @ rows[:, :LATENT]
    cache = operands.laid_out(key[..., :LATENT].contiguous(), "PA_BSND")
    out, npu_largest, npu_sums = torch.ops._C_ascend.npu_sparse_flash_attention(
        query=query[..., :LATENT].contiguous().npu(), key=cache, value=cache, sparse_indices=indices.npu(),
        scale_value=0.05, query_rope=query[..., LATENT:].contiguous().npu(),
        key_rope=operands.laid_out(key[..., LATENT:].contiguous(), "PA_BSND"), sparse_block_size=1,
        layout_query="TND", layout_kv="PA_BSND", sparse_mode=0, attention_mode=2, return_softmax_lse=True,
        **operands.named("PA_BSND", "actual_seq_lengths_kv"),
    )  # fmt: skip
    assert_close(out, expected)
    assert npu_largest.shape == npu_sums.shape == (1, NUM_QUERIES + 2, 2)
    torch.testing.assert_close(npu_largest[0].cpu(), largest, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(npu_sums[0].cpu(), sums, rtol=1e-4, atol=1e-4)


def test_padded_queries_and_keys() -> None:
    """In layout BSND a request has a row; without lengths all of it counts, and with them the rest is not used."""
    import torch_npu

    query, key = torch.randn(2, 3, 1, HEAD_SIZE), torch.randn(2, 5, 1, HEAD_SIZE)
    weights = torch.ones(2, 3, 1)
    lengths = {"actual_seq_lengths_query": torch.tensor([3, 2]), "actual_seq_lengths_key": torch.tensor([5, 4])}
    scores = torch.einsum("bsnd,bknd->bsk", query.double(), key.double()).relu()
    for named, num_queries, num_keys in (({}, (3, 3), (5, 5)), (lengths, (3, 2), (5, 4))):
        indices, _ = torch_npu.npu_lightning_indexer(
            query.npu(), key.npu(), weights.npu(), sparse_count=2,
            **{name: of.int().npu() for name, of in named.items()},
        )  # fmt: skip
        for request, (queries, keys) in enumerate(zip(num_queries, num_keys, strict=True)):
            rows = indices[request, :, 0].cpu().long()
            for row, seen_K in enumerate(visible(queries, keys, 3)):
                assert_best(rows[row], scores[request, row], torch.nn.functional.pad(seen_K, (0, 5 - keys)))
            assert (rows[queries:] == -1).all()


def indexer_call(**changes: Any) -> Any:
    import torch_npu

    operands: dict[str, Any] = {
        "query": torch.randn(2, 1, HEAD_SIZE), "key": torch.randn(4, BLOCK_SIZE, 1, HEAD_SIZE),
        "weights": torch.randn(2, 1), "actual_seq_lengths_query": torch.tensor([2], dtype=torch.int32),
        "actual_seq_lengths_key": torch.tensor([20], dtype=torch.int32),
        "block_table": torch.tensor([[0, 1]], dtype=torch.int32), "layout_query": "TND", "layout_key": "PA_BSND",
    } | changes  # fmt: skip
    return torch_npu.npu_lightning_indexer(
        **{name: of.npu() if isinstance(of, torch.Tensor) else of for name, of in operands.items()}
    )


def attention_call(**changes: Any) -> Any:
    import torch_npu

    cache = torch.randn(4, BLOCK_SIZE, 1, LATENT).npu()
    operands: dict[str, Any] = {
        "query": torch.randn(2, 2, LATENT), "key": cache, "value": cache,
        "sparse_indices": torch.tensor([[[0, -1]], [[1, 0]]], dtype=torch.int32), "scale_value": 1.0,
        "query_rope": torch.randn(2, 2, ROPE), "key_rope": torch.randn(4, BLOCK_SIZE, 1, ROPE),
        "actual_seq_lengths_query": torch.tensor([2], dtype=torch.int32),
        "actual_seq_lengths_kv": torch.tensor([20], dtype=torch.int32),
        "block_table": torch.tensor([[0, 1]], dtype=torch.int32), "layout_query": "TND", "layout_kv": "PA_BSND",
        "attention_mode": 2,
    } | changes  # fmt: skip
    return torch_npu.npu_sparse_flash_attention(
        **{name: of.npu() if isinstance(of, torch.Tensor) else of for name, of in operands.items()}
    )


INDEXER_LIMITS = {
    "65 heads; at most 64": {"query": torch.zeros(2, 65, HEAD_SIZE), "weights": torch.zeros(2, 65)},
    "head sizes 64 and 64 are not 128": {
        "query": torch.zeros(2, 1, 64), "key": torch.zeros(4, BLOCK_SIZE, 1, 64)
    },
    "sparse_count 2049 is not supported": {"sparse_count": 2049},
    "a block has 8 keys": {"key": torch.zeros(4, 8, 1, HEAD_SIZE)},
    "query c10::BFloat16|key is Float, query BFloat16": {"query": torch.zeros(2, 1, HEAD_SIZE).bfloat16()},
    "actual_seq_lengths_query is needed": {"actual_seq_lengths_query": None},
    "sparse_mode 1 is not 0 or 3": {"sparse_mode": 1},
}  # fmt: skip
ATTENTION_LIMITS = {
    "head sizes 256 and 256 are not 512": {
        "query": torch.zeros(2, 2, 256), **dict.fromkeys(("key", "value"), torch.zeros(4, BLOCK_SIZE, 1, 256))
    },
    "3 heads: not a power of two": {"query": torch.zeros(2, 3, LATENT), "query_rope": torch.zeros(2, 3, ROPE)},
    "key and value must be the same tensor": {"value": torch.zeros(4, BLOCK_SIZE, 1, LATENT)},
    "sparse_block_size 3 is not a power of two": {"sparse_block_size": 3},
    "attention_mode 0 is not 2": {"attention_mode": 0},
    "return_softmax_lse is for training": {"return_softmax_lse": True},
}  # fmt: skip


@pytest.mark.parametrize("message", INDEXER_LIMITS)
def test_documented_limits_of_the_indexer(message: str) -> None:
    assert indexer_call()[0].shape == (2, 1, 2048)
    with pytest.raises(RuntimeError, match=message):
        indexer_call(**INDEXER_LIMITS[message])


@pytest.mark.parametrize("message", ATTENTION_LIMITS)
def test_documented_limits_of_attention(message: str) -> None:
    assert attention_call()[0].shape == (2, 2, LATENT)
    with pytest.raises(RuntimeError, match=message):
        attention_call(**ATTENTION_LIMITS[message])
