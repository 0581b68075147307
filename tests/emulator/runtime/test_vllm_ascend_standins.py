# SPDX-License-Identifier: Apache-2.0
"""The stand-ins of vllm-ascend's compiled operators, against plain references that share no code with them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from emulator.vllm_ascend.standins import STAND_INS

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def npu() -> torch.device:
    """The device, with vllm-ascend's custom operators loaded as vllm-ascend loads them."""
    from vllm_ascend.utils import enable_custom_op

    assert enable_custom_op()
    return torch.device("npu", 0)


def test_every_stand_in_has_a_reason() -> None:
    for stand_in in STAND_INS:
        assert stand_in.reason and stand_in.does, stand_in.target
    assert len({stand_in.target for stand_in in STAND_INS}) == len(STAND_INS)


def test_vllm_ascend_is_built_for_the_emulated_soc() -> None:
    program = "from vllm_ascend.utils import check_ascend_device_type, get_ascend_device_type as kind\n"
    program += "kind()\ncheck_ascend_device_type()\nprint(kind().name)"
    for soc, expected in (("Ascend910B4", "A2"), ("Ascend910_9391", "A3")):
        environment = os.environ | {"EMULATOR_SOC": soc}
        output = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout
        assert output.split()[-1] == expected


def test_add_rms_norm_bias(npu: torch.device) -> None:
    x, residual = torch.randn(5, 3, 64), torch.randn(5, 3, 64)
    gamma, beta = torch.rand(64), torch.randn(64)
    y, rstd, total = torch.ops._C_ascend.npu_add_rms_norm_bias(
        x.to(npu), residual.to(npu), gamma.to(npu), beta.to(npu), 1e-5
    )
    expected = torch.nn.functional.rms_norm(x + residual, (64,), gamma, 1e-5) + beta
    torch.testing.assert_close(y.cpu(), expected)
    torch.testing.assert_close(total.cpu(), x + residual)
    assert rstd.shape == (5, 3, 1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("num_groups", "num_kept", "best_of"), [(1, 1, 1), (4, 2, 1), (4, 2, 2)])
def test_moe_gating_top_k(
    npu: torch.device, num_groups: int, num_kept: int, best_of: int, scoring: str, with_bias: bool
) -> None:
    logits_TE, bias_E = torch.randn(9, 32), torch.randn(32) if with_bias else None
    weights_TK, ids_TK, _ = torch.ops._C_ascend.moe_gating_top_k(
        logits_TE.to(npu), k=4, k_group=num_kept, group_count=num_groups, group_select_mode=best_of - 1, renorm=1,
        norm_type=int(scoring == "sigmoid"), out_flag=False, routed_scaling_factor=2.5, eps=1e-20,
        bias_opt=None if bias_E is None else bias_E.to(npu),
    )  # fmt: skip
    for logits_E, weights_K, ids_K in zip(logits_TE, weights_TK.cpu(), ids_TK.cpu(), strict=True):
        scores = (logits_E.softmax(0) if scoring == "softmax" else logits_E.sigmoid()).tolist()
        choice = [s + (0 if bias_E is None else float(bias_E[e])) for e, s in enumerate(scores)]
        size = 32 // num_groups
        groups = [range(g * size, g * size + size) for g in range(num_groups)]
        groups.sort(key=lambda group: -sum(sorted(choice[e] for e in group)[-best_of:]))
        allowed = sorted((e for group in groups[:num_kept] for e in group), key=lambda e: -choice[e])
        assert ids_K.tolist() == allowed[:4]
        total = sum(scores[e] for e in allowed[:4])
        assert weights_K.tolist() == pytest.approx([2.5 * scores[e] / total for e in allowed[:4]], rel=1e-5)


def test_compiled_operators_have_the_shapes_of_what_they_return(npu: torch.device) -> None:
    """torch.compile traces without values; what it concludes has to be what the stand-ins return."""
    x, gamma, logits = torch.randn(3, 64), torch.rand(64), torch.randn(3, 8, dtype=torch.bfloat16)

    def call(place: torch.device) -> list[torch.Tensor]:
        ops = torch.ops._C_ascend
        normed = ops.npu_add_rms_norm_bias(x.to(place), x.to(place), gamma.to(place))
        return [*normed, *ops.moe_gating_top_k(logits.to(place), 2, 1, 1, 0, 1, 0, True, 1.0, 1e-20)]

    ours, traced = call(npu), call(torch.device("meta"))
    assert [(t.shape, t.dtype) for t in traced] == [(t.shape, t.dtype) for t in ours]


@pytest.mark.parametrize(("first", "last"), [(0, 8), (0, 4), (4, 8)])
def test_moe_init_routing(npu: torch.device, first: int, last: int) -> None:
    x_TH, ids_TK = torch.randn(13, 6), torch.randint(0, 8, (13, 3), dtype=torch.int32)
    rows, places, counts, _ = torch.ops._C_ascend.npu_moe_init_routing_custom(
        x_TH.to(npu), ids_TK.to(npu), active_num=39, expert_num=8, expert_tokens_num_type=1,
        expert_tokens_num_flag=True, quant_mode=-1, active_expert_range=[first, last],
    )  # fmt: skip
    routed = ((e, t, k) for t, row in enumerate(ids_TK.tolist()) for k, e in enumerate(row))
    pairs = sorted(pair for pair in routed if first <= pair[0] < last)
    expected = torch.full((13, 3), -1, dtype=torch.int32)
    for place, (_, token, k) in enumerate(pairs):
        expected[token, k] = place
    assert torch.equal(rows.cpu()[: len(pairs)], x_TH[[token for _, token, _ in pairs]])
    assert torch.equal(places.cpu(), expected.flatten())
    assert counts.tolist() == [sum(e == expert for e, _, _ in pairs) for expert in range(first, last)]


@pytest.mark.parametrize("neox", [False, True])
@pytest.mark.parametrize("rotary_size", [16, 32])
def test_rotary_embedding(npu: torch.device, rotary_size: int, neox: bool) -> None:
    positions, cache = torch.tensor([3, 0, 7]), torch.randn(10, rotary_size)
    query, key = torch.randn(3, 4 * 32), torch.randn(3, 2 * 32)
    on_npu = query.to(npu), key.to(npu)
    torch.ops.atb._npu_rotary_embedding(positions.to(npu), *on_npu, 32, cache.to(npu), neox)
    half = rotary_size // 2
    for before, after in zip((query, key), on_npu, strict=True):
        expected = before.clone().view(3, -1, 32)
        for token, position in enumerate(positions.tolist()):
            for i in range(half):
                a, b = (i, i + half) if neox else (2 * i, 2 * i + 1)
                cos, sin = cache[position, i], cache[position, half + i]
                x, y = expected[token, :, a].clone(), expected[token, :, b].clone()
                expected[token, :, a], expected[token, :, b] = x * cos - y * sin, y * cos + x * sin
        torch.testing.assert_close(after.cpu(), expected.flatten(1))


def test_reshape_and_cache(npu: torch.device) -> None:
    key, value = torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    caches = torch.zeros(2, 3, 16, 2, 8, device=npu)
    slots = torch.tensor([5, -1, 40, 16], dtype=torch.int32)
    torch.ops.atb._npu_reshape_and_cache(key.to(npu), value.to(npu), caches[0], caches[1], slots.to(npu))
    expected = torch.zeros(2, 48, 2, 8)
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected[0, slot], expected[1, slot] = key[token], value[token]
    assert torch.equal(caches.cpu().flatten(1, 2), expected)


def test_matmul_add(npu: torch.device) -> None:
    x, weight, total = torch.randn(6, 4), torch.randn(6, 3), torch.randn(4, 3)
    on_npu = total.to(npu)
    torch.ops.atb._npu_matmul_add_fp32(x.to(npu), weight.to(npu), on_npu)
    torch.testing.assert_close(on_npu.cpu(), total + x.t() @ weight)


def test_slot_mapping(npu: torch.device) -> None:
    from vllm_ascend.worker.block_table import _compute_slot_mapping_kernel

    starts, positions = [0, 3, 4, 9], [0, 1, 2, 130, 5, 6, 7, 8, 9]
    blocks = torch.tensor([[3, 0], [1, 7], [2, 0], [9, 9]], dtype=torch.int32)
    slots = torch.full((12,), 77, dtype=torch.int32, device=npu)
    _compute_slot_mapping_kernel[(4,)](
        9, 12, torch.tensor(starts, dtype=torch.int32, device=npu), torch.tensor(positions, device=npu),
        blocks.to(npu), 2, 128, slots,
        TOTAL_CP_WORLD_SIZE=1, TOTAL_CP_RANK=0, CP_KV_CACHE_INTERLEAVE_SIZE=1, PAD_ID=-1, BLOCK_SIZE=1024,
    )  # fmt: skip
    expected = [384, 385, 386, 7 * 128 + 2, 261, 262, 263, 264, 265, -1, -1, -1]
    assert slots.tolist() == expected
