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

_EACH_ROW = 2  # weight_quant_mode: int8 weights with a scale an output, int8 rows with a scale each


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
    cache_index: Tensor | None = None,
    dequant_scale_x: Tensor | None = None,
    dequant_scale_w_dq: Tensor | None = None,
    dequant_scale_w_uq_qr: Tensor | None = None,
    dequant_scale_w_dkv_kr: Tensor | None = None,
    rmsnorm_epsilon_cq: float = 1e-5,
    rmsnorm_epsilon_ckv: float = 1e-5,
    cache_mode: str = "PA_BSND",
    query_norm_flag: bool = False,
    weight_quant_mode: int = 0,
    kv_cache_quant_mode: int = 0,
    query_quant_mode: int = 0,
    qc_qr_scale: float = 1.0,
    kc_scale: float = 1.0,
    **others: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Writes each token's key to its slot, and returns the query in the keys' latent space [T, N, C], its rotated
    part [T, N, R], nothing, and with `query_norm_flag` the latent query, int8 [T, Q], with its scales [T, 1].

    token_x: int8 [T, hidden], with scales [T, 1]. weight_uk: [N, D, C]. kv_cache, kr_cache: paged, [blocks, block
    size, 1, C and R]. cache_index: slots [T]; a row with one below 0 is written nowhere, as by
    `npu_kv_rmsnorm_rope_cache`.

    Raises:
        NotImplementedError: what vllm-ascend does not ask for on an A2 or A3: weights in floating point, a
            quantised cache or query, other layouts, scales of the latents.
    """
    asked = (weight_quant_mode, kv_cache_quant_mode, query_quant_mode, cache_mode, qc_qr_scale, kc_scale)
    other = {name: value for name, value in others.items() if isinstance(value, Tensor)}
    if asked != (_EACH_ROW, 0, 0, "PA_BSND", 1.0, 1.0) or other or token_x.dim() != 2:
        raise NotImplementedError(f"emulator: npu_mla_prolog_v3 has no such mode: {asked}, {sorted(other)}")
    assert cache_index is not None and dequant_scale_x is not None
    dtype, (num_heads, size, _) = rope_cos.dtype, weight_uk.shape
    cos_sin = [part.view(-1, 1, 1, part.shape[-1]) for part in (rope_cos, rope_sin)]

    down = _product(token_x, weight_dq, dequant_scale_w_dq, dequant_scale_x, dtype)
    latent, _ = torch_npu.npu_rms_norm(down, rmsnorm_gamma_cq, rmsnorm_epsilon_cq)
    rows, scales = torch_npu.npu_dynamic_quant(latent)
    query = _product(rows, weight_uq_qr, dequant_scale_w_uq_qr, scales, dtype)
    query = query.view(query.shape[0], num_heads, -1)
    plain, rotary = query[..., :size], query[..., size:].contiguous()
    in_latent_space = torch.bmm(plain.transpose(0, 1), weight_uk).transpose(0, 1).contiguous()
    rotated = torch_npu.npu_interleave_rope(rotary[:, :, None], *cos_sin)[:, :, 0]

    keys = _product(token_x, weight_dkv_kr, dequant_scale_w_dkv_kr, dequant_scale_x, dtype)
    torch_npu.npu_kv_rmsnorm_rope_cache(
        keys[:, None, None],
        rmsnorm_gamma_ckv,
        *cos_sin,
        cache_index,
        kr_cache,
        kv_cache,
        epsilon=rmsnorm_epsilon_ckv,
        cache_mode="PA",
    )
    nothing = query.new_empty(0)
    if not query_norm_flag:
        return in_latent_space, rotated, nothing, nothing, nothing
    return in_latent_space, rotated, nothing, rows, scales.view(-1, 1)


def _product(rows: Tensor, weight: Tensor, scale: Tensor | None, row_scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the scaled product of int8 rows and an int8 weight [K, outputs]."""
    assert scale is not None
    product: Tensor = torch_npu.npu_quant_matmul(
        rows, weight, scale.flatten(), pertoken_scale=row_scales.flatten(), output_dtype=dtype
    )
    return product
