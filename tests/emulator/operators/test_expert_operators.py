# SPDX-License-Identifier: Apache-2.0
"""torch_npu's mixture-of-experts and sampling operators on the emulator, against plain torch on the CPU.

Shapes: T = tokens, E = experts, K = experts a token, H = hidden.
"""

from __future__ import annotations

import math

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator


def random_experts(tokens: int, experts: int, k: int) -> torch.Tensor:
    return torch.rand(tokens, experts).argsort(-1)[:, :k].int()


def test_gating_top_k_softmax() -> None:
    import torch_npu

    logits_TE = torch.randn(5, 8)
    weights, experts, rows = torch_npu.npu_moe_gating_top_k_softmax(logits_TE.npu(), None, 3)
    expected, expected_experts = logits_TE.softmax(-1).topk(3)
    assert_close(weights, expected)
    assert torch.equal(experts.cpu().long(), expected_experts)
    assert torch.equal(rows.cpu(), torch.arange(15, dtype=torch.int32).view(3, 5).t())


def test_gating_top_k_in_groups() -> None:
    """DeepSeek-V3: sigmoid scores, a bias that only chooses, the two best groups of four."""
    import torch_npu

    logits_TE, bias_E = torch.randn(6, 16), torch.randn(16)
    weights, experts, _ = torch_npu.npu_moe_gating_top_k(
        logits_TE.npu(), 4, bias=bias_E.npu(), k_group=2, group_count=4, group_select_mode=1, norm_type=1,
        routed_scaling_factor=2.5,
    )  # fmt: skip
    scores = logits_TE.sigmoid()
    grouped = (scores + bias_E).unflatten(-1, (4, 4))
    kept = grouped.topk(2, -1)[0].sum(-1).topk(2, -1)[1]
    hidden = torch.ones(6, 4, dtype=torch.bool).scatter_(1, kept, False)
    expected_experts = grouped.masked_fill(hidden[..., None], -math.inf).flatten(-2).topk(4)[1]
    chosen = scores.gather(-1, expected_experts)
    assert torch.equal(experts.cpu().long(), expected_experts)
    assert_close(weights, chosen / chosen.sum(-1, keepdim=True) * 2.5)


@pytest.mark.parametrize("active", ((0, 8), (2, 6)))
@pytest.mark.parametrize("scatter_index", (False, True))
def test_init_routing_sorts_tokens_by_expert(active: tuple[int, int], scatter_index: bool) -> None:
    import torch_npu

    x_TH, experts_TK = torch.randn(7, 4), random_experts(7, 8, 2)
    expanded, row_index, counts, _ = torch_npu.npu_moe_init_routing_v2(
        x_TH.npu(), experts_TK.npu(), active_num=14, expert_num=8, expert_tokens_num_type=1,
        expert_tokens_num_flag=True, active_expert_range=list(active), row_idx_type=int(scatter_index),
    )  # fmt: skip
    flat = experts_TK.flatten()
    order = [i for expert in range(*active) for i in (flat == expert).nonzero().flatten().tolist()]
    assert torch.equal(expanded.cpu()[: len(order)], x_TH[torch.tensor(order) // 2])
    assert counts.tolist() == [int((flat == expert).sum()) for expert in range(*active)]
    if scatter_index:
        assert row_index.tolist()[: len(order)] == order
    else:
        assert row_index.tolist() == [order.index(i) if i in order else -1 for i in range(14)]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("list_type", (0, 1))
@pytest.mark.parametrize("transposed", (False, True))
def test_grouped_matmul(dtype: torch.dtype, list_type: int, transposed: bool) -> None:
    import torch_npu

    x, weight = torch.randn(9, 6, dtype=dtype), torch.randn(3, 6, 5, dtype=dtype)
    on_device = weight.transpose(1, 2).contiguous().npu().transpose(1, 2) if transposed else weight.npu()
    sizes = torch.tensor([4, 0, 3])  # the last two rows belong to no group
    (out,) = torch_npu.npu_grouped_matmul(
        [x.npu()], [on_device], split_item=2, group_type=0, group_list_type=list_type,
        group_list=(sizes if list_type == 1 else sizes.cumsum(0)).npu(),
    )  # fmt: skip
    expected = torch.cat((x[:4].float() @ weight[0].float(), x[4:7].float() @ weight[2].float()))
    assert_close(out[:7], expected)
    assert out.shape == (9, 5)


def test_grouped_matmul_of_pairs() -> None:
    import torch_npu

    xs, weights = ([torch.randn(*shape) for shape in shapes] for shapes in (((2, 4), (3, 5)), ((4, 6), (5, 7))))
    outs = torch_npu.npu_grouped_matmul(
        [x.npu() for x in xs], [weight.npu() for weight in weights], split_item=0, group_type=-1
    )
    for out, x, weight in zip(outs, xs, weights, strict=True):
        assert_close(out, x @ weight)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_permuting_tokens_and_back(dtype: torch.dtype) -> None:
    import torch_npu

    tokens_TH, experts_TK = torch.randn(6, 4, dtype=dtype), random_experts(6, 8, 2).long()
    weights_TK = torch.rand(6, 2, dtype=dtype)
    permuted, places = torch_npu.npu_moe_token_permute(tokens_TH.npu(), experts_TK.npu())
    order = experts_TK.flatten().argsort(stable=True)
    assert torch.equal(permuted.cpu(), tokens_TH[order // 2])
    back = torch_npu.npu_moe_token_unpermute(permuted, places, weights_TK.npu())
    assert_close(back, tokens_TH.float() * weights_TK.float().sum(1, keepdim=True))


def test_unpermute_skips_what_has_no_weight() -> None:
    """A rank of an expert-parallel group never writes the rows of experts that it does not have."""
    import torch_npu

    permuted = torch.tensor([[1.0, 2.0], [math.nan, math.nan]])
    places, weights = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([[0.5, 0.0]])
    out = torch_npu.npu_moe_token_unpermute(permuted.npu(), places.npu(), weights.npu())
    assert out.tolist() == [[0.5, 1.0]]


def test_finalize_routing() -> None:
    import torch_npu

    rows, skip, scales = torch.randn(8, 3), torch.randn(4, 3), torch.rand(4, 2)
    places = torch.randperm(8).int()
    out = torch_npu.npu_moe_finalize_routing(
        rows.npu(), skip.npu(), None, None, scales.npu(), places.npu(), None, drop_pad_mode=2
    )
    expected = skip + (rows[places.long()].view(4, 2, 3) * scales[..., None]).sum(1)
    assert_close(out, expected)


def test_transposed_batch_matmul() -> None:
    import torch_npu

    x, weight = torch.randn(3, 4, 512), torch.randn(3, 512, 128)
    out = torch_npu.npu_transpose_batchmatmul(x.npu(), weight.npu(), perm_y=(1, 0, 2))
    torch.testing.assert_close(out.cpu(), torch.bmm(x, weight).transpose(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", (None, (1, 3, 20)))
@pytest.mark.parametrize("p", (None, (0.5, 0.9, 0.01)))
def test_top_k_top_p(k: tuple[int, ...] | None, p: tuple[float, ...] | None) -> None:
    import torch_npu

    logits = torch.randn(3, 20)
    out = torch_npu.npu_top_k_top_p(
        logits.npu(),
        k=None if k is None else torch.tensor(k, dtype=torch.int32).npu(),
        p=None if p is None else torch.tensor(p).npu(),
    )
    expected = logits.clone()
    for row in range(3):
        if k is not None:
            expected[row, expected[row] < expected[row].topk(k[row])[0][-1]] = -math.inf
        if p is not None:
            values, order = expected[row].sort(descending=True)
            before = values.softmax(-1).cumsum(-1) - values.softmax(-1)
            expected[row, order[before >= p[row]]] = -math.inf
    assert torch.equal(out.cpu(), expected)
