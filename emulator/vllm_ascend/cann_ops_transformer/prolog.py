# SPDX-License-Identifier: Apache-2.0
"""Runs what comes before latent attention as one operator: the query, and the rows of the caches of keys.

The parts are the emulated operators that vllm-ascend calls one by one where it does not fuse them, so that limits,
rounding and the race checker are the same. Signature and meaning: op-plugin's page of `npu_mla_prolog_v3`.

Shapes: T = tokens, N = heads, D = their size without rotation, R = the rotated size, Q and C = latent sizes of
queries and keys.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor

# weights are int8 with a scale an output, rows int8 with a scale each, caches and query floating point
_MODES = {
    "weight_quant_mode": 2,
    "kv_cache_quant_mode": 0,
    "query_quant_mode": 0,
    "cache_mode": "PA_BSND",
    "qc_qr_scale": 1.0,
    "kc_scale": 1.0,
}
_UNSAID = {**_MODES, "weight_quant_mode": 0}


def mla_prolog_v3(
    token_x: Tensor,
    weight_dq: Tensor,
    weight_uq_qr: Tensor,
    weight_uk: Tensor,
    weight_dkv_kr: Tensor,
    rmsnorm_gamma_cq: Tensor,
    rmsnorm_gamma_ckv: Tensor,
    rope_sin: Tensor,
    rope_cos: Tensor,
    kv_cache: Tensor,
    kr_cache: Tensor,
    *,
    cache_index: Tensor,
    dequant_scale_x: Tensor,
    dequant_scale_w_dq: Tensor,
    dequant_scale_w_uq_qr: Tensor,
    dequant_scale_w_dkv_kr: Tensor,
    rmsnorm_epsilon_cq: float = 1e-5,
    rmsnorm_epsilon_ckv: float = 1e-5,
    query_norm_flag: bool = False,
    **others: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Writes each token's key to its slot, and returns the query in the keys' latent space [T, N, C], its rotated
    part [T, N, R], nothing, and with `query_norm_flag` the latent query, int8 [T, Q], with its scales [T, 1].

    token_x: int8 [T, hidden], with scales [T, 1]. weight_uk: [N, D, C]. kv_cache, kr_cache: paged, [blocks, block
    size, 1, C and R]. cache_index: slots [T]; a row with one below 0 is written nowhere, as by
    `npu_kv_rmsnorm_rope_cache`.

    Raises:
        NotImplementedError: what vllm-ascend does not ask for on an A2 or A3: other modes than `_MODES`.
    """
    _refuse_other_modes(token_x, others)
    dtype, cos_sin = rope_cos.dtype, [x.view(-1, 1, 1, x.shape[-1]) for x in (rope_cos, rope_sin)]
    down = _product(token_x, weight_dq, dequant_scale_w_dq, dequant_scale_x, dtype)
    latent, _ = torch_npu.npu_rms_norm(down, rmsnorm_gamma_cq, rmsnorm_epsilon_cq)
    rows, scales = torch_npu.npu_dynamic_quant(latent)
    query = _product(rows, weight_uq_qr, dequant_scale_w_uq_qr, scales, dtype)
    keys = _product(token_x, weight_dkv_kr, dequant_scale_w_dkv_kr, dequant_scale_x, dtype)
    _write(keys, rmsnorm_gamma_ckv, cos_sin, cache_index, (kr_cache, kv_cache), rmsnorm_epsilon_ckv)
    nothing = query.new_empty(0)
    of_the_query = (rows, scales.view(-1, 1)) if query_norm_flag else (nothing, nothing)
    return *_absorbed(query, weight_uk, cos_sin), nothing, *of_the_query


def _refuse_other_modes(token_x: Tensor, others: dict[str, object]) -> None:
    asked = {name: others.get(name, value) for name, value in _UNSAID.items()}
    tensors = sorted(name for name, value in others.items() if isinstance(value, Tensor))
    if asked != _MODES or tensors or token_x.dim() != 2:
        raise NotImplementedError(f"emulator: npu_mla_prolog_v3 has no such mode: {asked}, {tensors}")


def _absorbed(query: Tensor, weight_uk: Tensor, cos_sin: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the heads of a query in the keys' latent space, and their rotated part."""
    num_heads, size, _ = weight_uk.shape
    heads = query.view(query.shape[0], num_heads, -1)
    plain, rotary = heads[..., :size], heads[..., size:].contiguous()
    in_latent_space = torch.bmm(plain.transpose(0, 1), weight_uk).transpose(0, 1).contiguous()
    return in_latent_space, torch_npu.npu_interleave_rope(rotary[:, :, None], *cos_sin)[:, :, 0]


def _write(
    keys: Tensor,
    gamma: Tensor,
    cos_sin: list[Tensor],
    slots: Tensor,
    caches: tuple[Tensor, Tensor],
    epsilon: float,
) -> None:
    """Norms keys, rotates their last part, and puts them into the caches of rotated parts and of latents."""
    torch_npu.npu_kv_rmsnorm_rope_cache(
        keys[:, None, None], gamma, *cos_sin, slots, *caches, epsilon=epsilon, cache_mode="PA"
    )


def _product(rows: Tensor, weight: Tensor, scale: Tensor, row_scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the scaled product of int8 rows and an int8 weight [K, outputs]."""
    product: Tensor = torch_npu.npu_quant_matmul(
        rows, weight, scale.flatten(), pertoken_scale=row_scales.flatten(), output_dtype=dtype
    )
    return product
