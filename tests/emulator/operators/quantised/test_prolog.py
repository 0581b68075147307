# SPDX-License-Identifier: Apache-2.0
"""What stands in for the prolog of latent attention, against the documented formulas in float64 on the CPU.

Shapes: T = tokens, H = hidden, N = heads, D = their size without rotation, R = rotated size, Q, C = latents.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.emulator

T, H, N, D, R, Q, C = 5, 64, 4, 32, 16, 48, 40
BLOCK_SIZE, SLOTS = 8, [3, 17, -1, 8, 30]  # of four blocks; -1 is a padded row
EPSILON = 1e-3  # so large that another one would show


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape).to(torch.int8)


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    angles = torch.rand(T, R)
    return {
        "token_x": integers(T, H),
        "weight_dq": integers(H, Q),
        "weight_uq_qr": integers(Q, N * (D + R)),
        "weight_uk": torch.randn(N, D, C),
        "weight_dkv_kr": integers(H, C + R),
        "rmsnorm_gamma_cq": torch.rand(Q),
        "rmsnorm_gamma_ckv": torch.rand(C),
        "rope_sin": angles.sin(),
        "rope_cos": angles.cos(),
        "kv_cache": torch.full((4, BLOCK_SIZE, 1, C), 7.0),
        "kr_cache": torch.full((4, BLOCK_SIZE, 1, R), 7.0),
        "cache_index": torch.tensor(SLOTS),
        "dequant_scale_x": torch.rand(T, 1) / 100,
        "dequant_scale_w_dq": torch.rand(1, Q) / 100,
        "dequant_scale_w_uq_qr": torch.rand(1, N * (D + R)) / 100,
        "dequant_scale_w_dkv_kr": torch.rand(1, C + R) / 100,
    }


def run(given: dict[str, torch.Tensor], **more: Any) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """The operator's results, and both caches."""
    from emulator.vllm_ascend.cann_ops_transformer.prolog import mla_prolog_v3

    on_npu = {name: value.npu() for name, value in given.items()}
    epsilons = {"rmsnorm_epsilon_cq": EPSILON, "rmsnorm_epsilon_ckv": EPSILON}
    mode: dict[str, Any] = {"weight_quant_mode": 2, "query_norm_flag": True} | epsilons | more
    results = mla_prolog_v3(**on_npu, **mode)
    return [result.cpu() for result in results], on_npu["kv_cache"].cpu(), on_npu["kr_cache"].cpu()


def norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    return gamma.double() * x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def rotated(x: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Pairs of neighbours, [T, .., R], are turned; the first of all pairs come first."""
    shape = (T, *[1] * (x.dim() - 2), R)
    cos, sin = (given[name].double().view(shape) for name in ("rope_cos", "rope_sin"))
    first, second = x[..., ::2], x[..., 1::2]
    return torch.cat((first, second), -1) * cos + torch.cat((-second, first), -1) * sin


def product(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, of_rows: torch.Tensor) -> torch.Tensor:
    return (rows.double() @ weight.double()) * scale.double() * of_rows.double()


def test_query_and_caches(given: dict[str, torch.Tensor]) -> None:
    (query, query_rope, _, latent, scales), kv_cache, kr_cache = run(given)
    x = given["token_x"], given["dequant_scale_x"]
    down = norm(product(x[0], given["weight_dq"], given["dequant_scale_w_dq"], x[1]), given["rmsnorm_gamma_cq"])
    torch.testing.assert_close(latent.double() * scales, down, atol=float(scales.max()) * 0.51, rtol=0)
    up = product(latent, given["weight_uq_qr"], given["dequant_scale_w_uq_qr"], scales).view(T, N, D + R)
    in_latent_space = torch.einsum("tnd,ndc->tnc", up[..., :D], given["weight_uk"].double())
    torch.testing.assert_close(query.double(), in_latent_space, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(query_rope.double(), rotated(up[..., D:], given), rtol=1e-4, atol=1e-4)

    keys = product(x[0], given["weight_dkv_kr"], given["dequant_scale_w_dkv_kr"], x[1])
    expected_kv, expected_kr = given["kv_cache"].double().flatten(0, 2), given["kr_cache"].double().flatten(0, 2)
    kept = [token for token, slot in enumerate(SLOTS) if slot >= 0]
    slots = [SLOTS[token] for token in kept]
    expected_kv[slots] = norm(keys[:, :C], given["rmsnorm_gamma_ckv"])[kept]
    expected_kr[slots] = rotated(keys[:, C:], given)[kept]
    torch.testing.assert_close(kv_cache.double().flatten(0, 2), expected_kv, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kr_cache.double().flatten(0, 2), expected_kr, rtol=1e-4, atol=1e-4)


def test_other_modes_are_errors(given: dict[str, torch.Tensor]) -> None:
    assert [result.numel() for result in run(given, query_norm_flag=False)[0][2:]] == [0, 0, 0]
    wrong: tuple[dict[str, Any], ...] = (
        {"weight_quant_mode": 0},
        {"kv_cache_quant_mode": 1},
        {"cache_mode": "PA_NZ"},
        {"quant_scale_ckv": torch.ones(1)},
    )
    for mode in wrong:
        with pytest.raises(NotImplementedError, match="npu_mla_prolog_v3"):
            run(given, **mode)
