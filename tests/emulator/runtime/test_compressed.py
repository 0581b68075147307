# SPDX-License-Identifier: Apache-2.0
"""The operators that DeepSeek-V4 calls of vllm-ascend, on the emulator: against transformers' modules where it has
them, else against sums in loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.emulator

RATIO, SIZE, ROPE, HIDDEN = 4, 16, 4, 8
BLOCK = 2  # tokens of a block of states
# pieces in which the tokens of two requests come
STEPS = [(5, 1), (2, 9), (1, 3), (8, 2)]


@pytest.fixture(scope="module")
def operators() -> Any:
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    return torch.ops._C_ascend


def on_npu(*tensors: Tensor) -> list[Tensor]:
    return [tensor.npu() for tensor in tensors]


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def angles(num_positions: int) -> tuple[Tensor, Tensor]:
    """Returns cos and sin [positions, ROPE] with each angle twice."""
    angle = torch.outer(torch.arange(float(num_positions)), torch.tensor([1.0, 0.1])).repeat_interleave(2, -1)
    return angle.cos(), angle.sin()


def turned(row: Tensor, position: int) -> Tensor:
    """Returns a row whose last ROPE numbers, in pairs as complex ones, are turned by the position's angles."""
    pairs = torch.view_as_complex(row[-ROPE:].reshape(-1, 2).contiguous())
    turn = torch.polar(torch.ones(2), position * torch.tensor([1.0, 0.1]))
    return torch.cat([row[:-ROPE], torch.view_as_real(pairs * turn).flatten()])


def key_of(x: Tensor, number: int, coff: int, weights: dict[str, Tensor]) -> Tensor:
    """Returns one compressed key of a request's tokens, by its definition."""
    rows = [(0, at) for at in range((number - 1) * RATIO, number * RATIO) if at >= 0] if coff == 2 else []
    rows += [(coff - 1, at) for at in range(number * RATIO, (number + 1) * RATIO)]
    parts = {
        name: torch.stack([(x[at] @ weights[name].T)[part * SIZE : (part + 1) * SIZE] for part, at in rows])
        for name in ("wkv", "wgate")
    }
    bias = torch.stack([weights["ape"][at % RATIO, part * SIZE : (part + 1) * SIZE] for part, at in rows])
    mixed = (parts["wkv"] * (parts["wgate"] + bias).softmax(0)).sum(0)
    normed = torch.nn.functional.rms_norm(mixed, (SIZE,), weights["norm"], 1e-6)
    return turned(normed, number * RATIO)


@pytest.mark.parametrize("coff", [1, 2])
def test_keys_come_of_tokens_in_any_pieces(operators: Any, coff: int) -> None:
    """Two requests' tokens come in steps of several sizes; each key comes once, in the step of its last token, and
    to the place that the metadata tell."""
    torch.manual_seed(coff)
    totals = [sum(step[request] for step in STEPS) for request in range(2)]
    x = [torch.randn(total, HIDDEN) for total in totals]
    weights = {name: torch.randn(coff * SIZE, HIDDEN) for name in ("wkv", "wgate")}
    weights |= {"ape": torch.randn(RATIO, coff * SIZE), "norm": torch.rand(SIZE)}
    num_blocks = max(totals) // BLOCK + 1
    table = (1 + torch.randperm(2 * num_blocks)).reshape(2, num_blocks).int()
    states = torch.full((2 * num_blocks + 1, BLOCK, 2 * coff * SIZE), float("nan")).npu()
    keys = torch.zeros(9, BLOCK, 1, SIZE).npu()
    cos, sin = angles(max(totals))
    done = [0, 0]
    for step in STEPS:
        begins, start = ints(0, step[0], sum(step)), ints(*done)
        tokens = torch.cat([x[i][done[i] : done[i] + step[i]] for i in range(2)])
        num_rows = min(len(tokens), len(tokens) // RATIO + 2)
        given = on_npu(cos, sin, begins, start, ints(1, 2, 3, 4, 5, 6, 7, 8).reshape(2, 4))
        of_cos, of_sin, slots = operators.compressor_metadata(*given, BLOCK, 2, RATIO, num_rows, 2)
        given = on_npu(tokens, weights["wkv"], weights["wgate"]), on_npu(weights["ape"], weights["norm"])
        made = operators.compressor(
            *given[0],
            states,
            *given[1],
            of_sin.flatten(1),
            of_cos.flatten(1),
            state_block_table=table.npu(),
            cu_seqlens=begins.npu(),
            seqused=None,
            start_pos=start.npu(),
            rope_head_dim=ROPE,
            cmp_ratio=RATIO,
            coff=coff,
            norm_eps=1e-6,
            rotary_mode=2,
            cache_mode=1,
        )
        assert made.shape == (num_rows, SIZE)
        operators.npu_scatter_nd_update_v2(keys, slots, made.unsqueeze(1))
        done = [before + more for before, more in zip(done, step, strict=True)]
    rows = keys.cpu().flatten(0, 2)
    for request, total in enumerate(totals):
        for number in range(total // RATIO):
            expected = key_of(x[request], number, coff, weights)
            torch.testing.assert_close(rows[(1 + 4 * request) * BLOCK + number], expected, rtol=1e-4, atol=1e-5)
    num_keys = sum(total // RATIO for total in totals)
    assert int((rows != 0).any(-1).sum()) == num_keys  # and no other row was written


def test_a_row_without_a_key_has_no_place(operators: Any) -> None:
    cos, sin = angles(16)
    given = on_npu(cos, sin, ints(0, 1, 5), ints(2, 4), ints(7, 9).reshape(2, 1))
    of_cos, of_sin, slots = operators.compressor_metadata(*given, 128, 2, RATIO, 3, 2)
    assert slots.tolist() == [[9, 1], [-1, 127], [-1, 127]]
    torch.testing.assert_close(of_cos[0, 0, 0].cpu(), cos[4])
    assert of_cos[1:].eq(1).all() and of_sin[1:].eq(0).all()
    assert operators.compressor_metadata(*given, 128, 1, RATIO, 3, 2)[2].tolist() == [9 * 128 + 1, -1, -1]
    assert operators.compressor_metadata(*given, 128, 1, RATIO, 3, 1)[2].tolist() == [-1, -1, -1]
    rows = [torch.empty_like(value) for value in (of_cos, of_sin, slots)]
    written = operators.compressor_metadata_out(*given, 128, 2, RATIO, 2, *rows)
    for row, result, value in zip(rows, written, (of_cos, of_sin, slots), strict=True):
        assert result.data_ptr() == row.data_ptr() and torch.equal(row.cpu(), value.cpu())


def paged(rows: Tensor, table: list[int], block_size: int) -> Tensor:
    """Returns a cache [blocks, block size, 1, D] that has the rows in the table's blocks, and NaN elsewhere."""
    cache = torch.full((max(table) + 1, block_size, 1, rows.shape[-1]), float("nan"))
    for at, row in enumerate(rows):
        cache[table[at // block_size], at % block_size, 0] = row
    return cache


@pytest.mark.parametrize("chosen", ["window", "all", "some"])
def test_attention_sees_a_window_and_compressed_keys(operators: Any, chosen: str) -> None:
    """Three tokens of a request that has eleven, each against a softmax in a loop, with a sink a head."""
    torch.manual_seed(5)
    num_tokens, window, num_heads, scale = 11, 4, 3, 0.3
    q, own = torch.randn(3, num_heads, SIZE), torch.randn(num_tokens, SIZE)
    compressed, sinks = torch.randn(num_tokens // RATIO, SIZE), torch.randn(num_heads)
    own_table, table = [3, 1, 2, 5, 4, 6], [2, 1]
    named: dict[str, Any] = {"cmp_ratio": 1}
    if chosen != "window":
        named = {"cmp_ratio": RATIO, "cmp_mask_mode": 3, "cmp_kv": paged(compressed, table, 1).npu()}
        named["cmp_block_table"] = ints(*table)[None].npu()
    picks = [[1, -1], [-1, -1], [0, 1]]
    if chosen == "some":
        named["cmp_sparse_indices"] = torch.tensor(picks, dtype=torch.int32)[:, None].npu()
    out, _ = operators.npu_sparse_attn_sharedkv(
        q.npu(),
        ori_kv=paged(own, own_table, 2).npu(),
        ori_block_table=ints(*own_table)[None].npu(),
        cu_seqlens_q=ints(0, 3).npu(),
        seqused_kv=ints(num_tokens).npu(),
        sinks=sinks.npu(),
        softmax_scale=scale,
        ori_mask_mode=4,
        ori_win_left=window - 1,
        ori_win_right=0,
        layout_q="TND",
        layout_kv="PA_ND",
        **named,
    )
    for token, position in enumerate((8, 9, 10)):
        keys = list(own[position - window + 1 : position + 1])
        ready = range((position + 1) // RATIO)
        if chosen != "window":
            keys += [compressed[at] for at in ready if chosen == "all" or at in picks[token]]
        stacked = torch.stack(keys)
        for head in range(num_heads):
            scores = torch.cat([stacked @ q[token, head] * scale, sinks[head : head + 1]]).softmax(0)
            torch.testing.assert_close(out[token, head].cpu(), scores[:-1] @ stacked, rtol=1e-4, atol=1e-5)


def test_the_indexer_chooses_the_largest_sums(operators: Any) -> None:
    torch.manual_seed(6)
    num_tokens, num_heads, count = 23, 2, 3
    query = torch.randint(-127, 128, (2, num_heads, SIZE), dtype=torch.int8)
    key = torch.randint(-127, 128, (num_tokens // RATIO, SIZE), dtype=torch.int8)
    weights, of_query = torch.randn(2, num_heads).half(), torch.rand(2, num_heads).half()
    of_key, table = torch.rand(len(key)).half(), [2, 1, 3]
    cache, scales = torch.zeros(4, 2, 1, SIZE, dtype=torch.int8), torch.zeros(4, 2, 1).half()
    for at in range(len(key)):
        cache[table[at // 2], at % 2, 0], scales[table[at // 2], at % 2, 0] = key[at], of_key[at]
    given = on_npu(query, cache, weights, of_query, scales)

    def chosen(lengths: int, sparse_count: int) -> list[list[int]]:
        ids, _ = operators.npu_vllm_quant_lightning_indexer(
            *given,
            actual_seq_lengths_query=ints(2).npu(),
            actual_seq_lengths_key=ints(lengths).npu(),
            block_table=ints(*table)[None].npu(),
            layout_query="TND",
            layout_key="PA_BSND",
            sparse_count=sparse_count,
            sparse_mode=3,
            cmp_ratio=RATIO,
        )
        return [sorted(row) for row in ids[:, 0].tolist()]

    def sums(token: int, ready: int) -> list[int]:
        products = (query[token].float() * of_query[token, :, None]) @ (key.float() * of_key[:, None]).T
        total = (products.relu() * weights[token, :, None].float()).sum(0)
        return sorted(total[:ready].argsort(descending=True)[:count].tolist())

    assert chosen(num_tokens, count) == [sums(0, 22 // RATIO), sums(1, 23 // RATIO)]
    assert chosen(8, count) == [[-1, -1, 0], [-1, 0, 1]]  # the seventh token sees one key, the eighth two
    assert chosen(num_tokens, 8)[1] == [-1, -1, -1, 0, 1, 2, 3, 4]


def test_hyper_connections_are_transformers(operators: Any) -> None:
    from transformers import DeepseekV4Config
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection

    torch.manual_seed(7)
    config = DeepseekV4Config(hidden_size=HIDDEN, hc_mult=4)
    module = DeepseekV4HyperConnection(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        streams = torch.randn(1, 5, 4, HIDDEN)
        post, mix, collapsed = module(streams)
    given = on_npu(streams[0], module.fn.detach(), module.scale.detach(), module.base.detach())
    made = operators.npu_hc_pre_v2(*given, 4, config.hc_sinkhorn_iters, config.rms_norm_eps, config.hc_eps)
    for ours, theirs in zip(made, (collapsed, post, mix), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs[0], rtol=1e-4, atol=1e-5)
    output = torch.randn(1, 5, HIDDEN)
    expected = post[..., None] * output[..., None, :] + mix.transpose(-1, -2) @ streams
    mixed = operators.npu_hc_post(*on_npu(output, streams), made[1][None], made[2][None])
    torch.testing.assert_close(mixed.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_token", [False, True])
def test_routing_is_transformers(operators: Any, by_token: bool) -> None:
    from transformers import DeepseekV4Config
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs

    torch.manual_seed(8)
    config = DeepseekV4Config(hidden_size=HIDDEN, n_routed_experts=6, num_experts_per_tok=2, vocab_size=10)
    router = (theirs.DeepseekV4HashRouter if by_token else theirs.DeepseekV4TopKRouter)(config)
    x, input_ids = torch.randn(1, 7, HIDDEN), torch.randint(10, (7,))
    torch.nn.init.normal_(router.weight)
    named: dict[str, Any] = {}
    if by_token:
        router.tid2eid.copy_(torch.rand(10, 6).topk(2).indices)
        named = {"input_ids": input_ids.npu(), "tid2eid": router.tid2eid.int().npu()}
    else:
        router.e_score_correction_bias.normal_()
        named = {"bias": router.e_score_correction_bias.npu()}
    with torch.no_grad():
        logits, weights, ids = router(x, input_ids) if by_token else router(x)
    made, chosen, _ = operators.moe_gating_top_k_hash(
        logits.npu(), 2, routed_scaling_factor=config.routed_scaling_factor, norm_type=2, **named
    )
    order, expected_order = chosen.cpu().argsort(-1), ids.argsort(-1)
    assert chosen.cpu().gather(1, order).tolist() == ids.gather(1, expected_order).tolist()
    torch.testing.assert_close(made.cpu().gather(1, order), weights.gather(1, expected_order))


def test_rows_are_rotated_in_place_and_quantised(operators: Any) -> None:
    x = torch.randn(3, 2, SIZE)
    cos, sin = angles(3)
    rotated = x.npu()
    given = (cos[:, None, None].npu(), sin[:, None, None].npu())
    operators.inplace_partial_rotary_mul(
        rotated.unsqueeze(1), *given, rotary_mode="interleave", partial_slice=[SIZE - ROPE, SIZE]
    )
    expected = torch.stack([torch.stack([turned(row, at) for row in x[at]]) for at in range(3)])
    torch.testing.assert_close(rotated.cpu(), expected)
    gamma = torch.rand(SIZE)
    y, scale = operators.npu_rms_norm_dynamic_quant(x[:, 0].npu(), gamma.npu(), epsilon=1e-6)
    normed = torch.nn.functional.rms_norm(x[:, 0], (SIZE,), gamma, 1e-6)
    assert (y.cpu() * scale.cpu()[:, None] - normed).abs().max() <= 0.51 * float(scale.max())
