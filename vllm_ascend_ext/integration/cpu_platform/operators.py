# SPDX-License-Identifier: Apache-2.0
"""Defines in plain torch the compiled operators that vLLM's CPU path calls, when no library defines them.

Callers: https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/_custom_ops.py,
https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/attention/backends/cpu_attn.py and
https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/worker/cpu_worker.py. With ``custom_ops=["none"]``
Llama, Qwen3, Qwen3-MoE and DeepSeek-V3 need no others. Semantics are those of ``csrc/cpu/cpu_attn_impl.hpp``
and ``csrc/moe/topk_softmax_kernels.cu`` there, but a cache block has one plain layout, whatever the ``isa``.

Shapes: ``T`` tokens, ``B`` requests, ``H`` query heads, ``K`` key/value heads, ``D`` head size, ``N`` cached
tokens of a request, ``Q`` query tokens of one tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SCORE_BYTES = 64 << 20  # most bytes of a tile of float32 attention scores; a single query token may need more
PLAIN_CACHE_TYPES = ("auto", "float16", "bfloat16")

_libraries: list[Any] = []  # an operator lives as long as its library object


def init_cpu_memory_env(node_ids: list[int]) -> None:
    """Does nothing: the compiled library binds memory to NUMA nodes here, and torch's allocator needs no
    set-up."""


def get_scheduler_metadata(
    num_req: int,
    num_heads_q: int,
    num_heads_kv: int,
    head_dim: int,
    seq_lens: Tensor,
    dtype: torch.dtype,
    query_start_loc: Tensor,
    casual: bool,
    window_size: int,
    isa_hint: str,
    enable_kv_split: bool,
) -> Tensor:
    """Returns an empty int8 tensor: the compiled library splits work among threads here, and nothing reads
    ours."""
    return torch.empty(0, dtype=torch.int8)


def _require_plain_cache(operator: str, cache: Tensor, kv_cache_dtype: str) -> None:
    if kv_cache_dtype not in PLAIN_CACHE_TYPES or not cache.is_floating_point() or cache.itemsize < 2:
        raise NotImplementedError(
            f"{operator}: a quantised cache (kv_cache_dtype={kv_cache_dtype!r}, {cache.dtype}) "
            "on the plain-torch CPU platform"
        )


def cpu_attn_reshape_and_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    isa: str,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    kv_cache_dtype: str = "auto",
) -> None:
    """Writes ``key`` and ``value`` [>=T, K, D] to their slots; a negative slot is skipped.

    key_cache, value_cache: [blocks, K, block size, D], any strides. slot_mapping: [T] int64.
    """
    _require_plain_cache("cpu_attn_reshape_and_cache", key_cache, kv_cache_dtype)
    token = (slot_mapping[: key.shape[0]] >= 0).nonzero().squeeze(1)
    slot, block_size = slot_mapping[token], key_cache.shape[2]
    block, offset = slot // block_size, slot % block_size
    key_cache[block, :, offset] = key[token].to(key_cache.dtype)
    value_cache[block, :, offset] = value[token].to(value_cache.dtype)


def _masked_scores(scores_HQN: Tensor, position_Q: Tensor, left: int, right: int) -> Tensor:
    """Puts -inf where key ``n`` lies outside [position - left, position + right]; -1 is no bound."""
    distance_QN = torch.arange(scores_HQN.shape[-1]) - position_Q.unsqueeze(1)
    if left >= 0:
        scores_HQN.masked_fill_(distance_QN < -left, float("-inf"))
    if right >= 0:
        scores_HQN.masked_fill_(distance_QN > right, float("-inf"))
    return scores_HQN


def _probabilities(scores_HQN: Tensor, sink_H: Tensor | None) -> Tensor:
    """Computes softmax over the keys and, if given, one more key per head with score ``sink_H`` and no value.

    A query that sees no key gets zeros.
    """
    highest = scores_HQN.amax(dim=-1, keepdim=True)
    if sink_H is not None:
        highest = torch.maximum(highest, sink_H.float().view(-1, 1, 1))
    highest.masked_fill_(highest == float("-inf"), 0.0)
    weights_HQN = scores_HQN.sub_(highest).exp_()
    total = weights_HQN.sum(dim=-1, keepdim=True)
    if sink_H is not None:
        total += (sink_H.float().view(-1, 1, 1) - highest).exp()
    return weights_HQN.div_(total.masked_fill_(total == 0, 1.0))


def _attend(
    query_QHD: Tensor,
    key_KND: Tensor,
    value_KND: Tensor,
    position_Q: Tensor,
    scale: float,
    softcap: float,
    window: tuple[int, int],
    alibi_H: Tensor | None,
    sink_H: Tensor | None,
) -> Tensor:
    """Computes attention [Q, H, D] (float32) of some query tokens of one request."""
    num_queries, num_heads, head_size = query_QHD.shape
    num_groups, num_keys = key_KND.shape[:2]
    query = (query_QHD.float() * scale).transpose(0, 1).reshape(num_groups, -1, head_size)  # [K, H / K * Q, D]
    scores_HQN = torch.bmm(query, key_KND.transpose(1, 2)).view(num_heads, num_queries, num_keys)
    if softcap:
        scores_HQN.div_(softcap).tanh_().mul_(softcap)
    if alibi_H is not None:
        distance_QN = torch.arange(num_keys) - position_Q.unsqueeze(1)
        scores_HQN += alibi_H.float().view(-1, 1, 1) * distance_QN
    weights_HQN = _probabilities(_masked_scores(scores_HQN, position_Q, *window), sink_H)
    output = torch.bmm(weights_HQN.view(num_groups, -1, num_keys), value_KND)
    return output.view(num_heads, num_queries, head_size).transpose(0, 1)


def cpu_attention_with_kv_cache(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    output: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    scale: float,
    causal: bool,
    alibi_slopes: Tensor | None,
    sliding_window_left: int,
    sliding_window_right: int,
    block_table: Tensor,
    softcap: float,
    scheduler_metadata: Tensor,
    s_aux: Tensor | None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    kv_cache_dtype: str = "auto",
) -> None:
    """Attends over the paged cache, request by request in float32; ``output`` is written.

    query, output: [T, H, D]. key_cache, value_cache: [blocks, K, block size, D]. query_start_loc: [B + 1].
    seq_lens: [B], cached tokens with the new ones. block_table: [B, blocks of a request]. alibi_slopes, s_aux
    (attention sinks): [H]. softcap 0 and window -1 mean none. Causal queries are the last tokens of their
    request; others count from position 0.
    """
    _require_plain_cache("cpu_attention_with_kv_cache", key_cache, kv_cache_dtype)
    output = output.view(query.shape)
    window = (sliding_window_left, 0 if causal else sliding_window_right)
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    for request, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        length = lengths[request]
        if end <= start or length <= 0:
            output[start:end] = 0.0
            continue
        key = _cached(key_cache, block_table[request], length)
        value = _cached(value_cache, block_table[request], length)
        first_position = length - (end - start) if causal else 0
        rows = max(1, SCORE_BYTES // (4 * query.shape[1] * max(length, 1)))
        for begin in range(start, end, rows):
            stop = min(begin + rows, end)
            position = torch.arange(begin - start, stop - start) + first_position
            output[begin:stop] = _attend(
                query[begin:stop], key, value, position, scale, softcap, window, alibi_slopes, s_aux
            ).to(output.dtype)


def _cached(cache: Tensor, blocks: Tensor, length: int) -> Tensor:
    """Returns the first ``length`` entries of a request, float32 [K, N, D]."""
    num_heads, block_size, head_size = cache.shape[1:]
    pages = cache[blocks[: -(-length // block_size)].long()]
    return pages.transpose(0, 1).reshape(num_heads, -1, head_size)[:, :length].float()


def _topk_experts(
    scores: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    indices: Tensor,
    renormalize: bool,
    bias: Tensor | None,
) -> None:
    """Writes the best experts by ``scores + bias`` and their unbiased scores; the lower index wins a tie."""
    choice = scores if bias is None else scores + bias.float()
    experts = choice.sort(dim=-1, descending=True, stable=True).indices[:, : topk_ids.shape[1]]
    weights = scores.gather(1, experts)
    if renormalize:
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1.0)
    topk_weights.copy_(weights)
    topk_ids.copy_(experts)
    num_tokens, topk = topk_ids.shape
    indices.copy_(torch.arange(num_tokens * topk).view(topk, num_tokens).t())


def topk_softmax(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None,
) -> None:
    """Routes each token to its top-k experts by softmax scores.

    gating_output: [T, experts] float. Written: topk_weights [T, k] float32, topk_indices [T, k] integer,
    token_expert_indices [T, k] int32 (``rank * T + token``). bias: [experts], for the choice only.
    """
    scores = gating_output.float().softmax(dim=-1)
    _topk_experts(scores, topk_weights, topk_indices, token_expert_indices, renormalize, bias)


def topk_sigmoid(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None,
) -> None:
    """Routes as `topk_softmax` does, with sigmoid scores."""
    scores = gating_output.float().sigmoid()
    _topk_experts(scores, topk_weights, topk_indices, token_expert_indices, renormalize, bias)


_ROUTING = (
    "(Tensor! topk_weights, Tensor! topk_indices, Tensor! token_expert_indices, Tensor gating_output, "
    "bool renormalize, Tensor? bias) -> ()"
)
OPERATORS: tuple[tuple[str, str, Callable[..., object]], ...] = (
    ("_C", "init_cpu_memory_env(SymInt[] node_ids) -> ()", init_cpu_memory_env),
    (
        "_C",
        "get_scheduler_metadata(int num_req, int num_heads_q, int num_heads_kv, int head_dim, "
        "Tensor seq_lens, ScalarType dtype, Tensor query_start_loc, bool casual, int window_size, "
        "str isa_hint, bool enable_kv_split) -> Tensor",
        get_scheduler_metadata,
    ),
    (
        "_C",
        "cpu_attn_reshape_and_cache(Tensor key, Tensor value, Tensor(a2!) key_cache, Tensor(a3!) "
        "value_cache, Tensor slot_mapping, str isa, float k_scale=1.0, float v_scale=1.0, "
        "str kv_cache_dtype='auto') -> ()",
        cpu_attn_reshape_and_cache,
    ),
    (
        "_C",
        "cpu_attention_with_kv_cache(Tensor query, Tensor key_cache, Tensor value_cache, Tensor(a3!) output, "
        "Tensor query_start_loc, Tensor seq_lens, float scale, bool causal, Tensor? alibi_slopes, "
        "SymInt sliding_window_left, SymInt sliding_window_right, Tensor block_table, float softcap, "
        "Tensor scheduler_metadata, Tensor? s_aux, float k_scale=1.0, float v_scale=1.0, "
        "str kv_cache_dtype='auto') -> ()",
        cpu_attention_with_kv_cache,
    ),
    ("_moe_C", "topk_softmax" + _ROUTING, topk_softmax),
    ("_moe_C", "topk_sigmoid" + _ROUTING, topk_sigmoid),
)


def define_operators() -> tuple[str, ...]:
    """Defines the operators of this module that do not exist yet and returns their names. Repeatable."""
    defined = []
    for namespace, schema, function in OPERATORS:
        name = schema.partition("(")[0]
        if hasattr(getattr(torch.ops, namespace), name):
            continue
        library: Any = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        _libraries.append(library)
        defined.append(f"{namespace}::{name}")
    return tuple(defined)
