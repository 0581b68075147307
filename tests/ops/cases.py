# SPDX-License-Identifier: Apache-2.0
"""Arguments of the operators, and what a result must satisfy. Shared by tests and benchmarks/ops.py."""

from __future__ import annotations

import torch

from vllm_ascend_ext import ops

INTEGERS = (torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
ROW_TYPES = (
    torch.bfloat16,
    torch.float32,
    torch.int8,
    torch.float16,
    torch.bool,
    torch.float8_e4m3fn,
    torch.uint8,
    torch.int32,
)
EPS = 1e-6


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _integers(low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randint(low, high, shape, dtype=dtype, generator=generator(seed))


def load_case(
    rows: int, top_k: int, experts: int, dtype: torch.dtype, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns load [E] int32, topk_ids [T, K] with some outside [0, E), num_tokens below, at or above T."""
    load = _integers(0, 1000, (experts,), torch.int32, seed)
    ids = _integers(-2, experts + 2, (rows, top_k), dtype, seed + 1)
    return load, ids, _integers(-1, rows + 3, (1,), torch.int32, seed + 2)


def counts_case(experts: int, is_cumsum: bool, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns load [E] int32, counts [E]."""
    load = _integers(0, 1000, (experts,), torch.int32, seed)
    counts = _integers(0, 500, (experts,), dtype, seed + 1)
    return load, counts.cumsum(0, dtype=dtype) if is_cumsum else counts


def rows_case(rows: int, width: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, int, int, int]:
    """Returns local [T, H] of any bits, rows, offset, total."""
    num_bytes = rows * width * torch.empty(0, dtype=dtype).element_size()
    most = 2 if dtype == torch.bool else 256
    local = _integers(0, most, (num_bytes,), torch.uint8, seed).view(dtype).view(rows, width)
    random = generator(seed + 1)
    real = int(torch.randint(0, rows + 1, (), generator=random)) if seed % 3 else rows
    offset = int(torch.randint(0, 40, (), generator=random)) if seed % 2 else 0
    return local, real, offset, offset + real + int(torch.randint(0, 40, (), generator=random))


def norm_case(rows: int, width: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, ...]:
    """Returns x, residual [T, H], weight [H], eps; rows of different magnitudes, the first one zero."""
    random = generator(seed)
    scale = torch.logspace(-3, 2, max(rows, 1))[:rows].unsqueeze(1)
    x = torch.randn(rows, width, generator=random) * scale
    x[:1] = 0
    residual = torch.randn(rows, width, generator=random) * (scale if seed % 2 else 1)
    residual[:1] = 0
    weight = torch.randn(width, generator=random)
    return x.to(dtype), residual.to(dtype), weight.to(dtype), EPS


def pack_case(batch: int, slots: int, top_k: int, seed: int) -> list[torch.Tensor]:
    """Returns token_ids, num_accepted (some outside 0 to S), status and, with K, the three of top-k."""
    tensors = [
        _integers(0, 1 << 30, (batch, slots), torch.int32, seed),
        _integers(-1, slots + 2, (batch,), torch.int32, seed + 1),
        _integers(0, 4, (batch,), torch.int32, seed + 2),
    ]
    if top_k:
        tensors.append(_integers(0, 1 << 30, (batch, slots, top_k), torch.int32, seed + 3))
        tensors.append(-torch.rand(batch, slots, top_k, generator=generator(seed + 4)) * 20)
        tensors.append(_integers(1, 1 << 20, (batch, slots), torch.int32, seed + 5))
    return tensors


def pack_output(tensors: list[torch.Tensor]) -> torch.Tensor:
    """`ops.mtp_pack_output` of what `pack_case` makes, on any device."""
    return ops.mtp_pack_output(*tensors[:3], ops.TopK(*tensors[3:]) if tensors[3:] else None)


def exact_norm(case: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns y and residual_out in float64."""
    x, residual, weight, eps = case
    total = x.double() + residual.double()
    return total / (total.square().mean(dim=1, keepdim=True) + eps).sqrt() * weight.double(), total


def unit_in_the_last_place(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns the spacing of `dtype` at each value, as float64; subnormal values have that of the smallest normal
    one."""
    info = torch.finfo(dtype)
    exponent = exact.abs().clamp(min=info.smallest_normal).log2().floor()
    return torch.exp2(exponent) * info.eps


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.int8), b.view(torch.int8))


def check_norm(results: tuple[torch.Tensor, torch.Tensor], case: tuple[torch.Tensor, ...]) -> None:
    """Checks that the error against float64 is at most the reference's own plus one unit in the last place.

    Element by element where the one rounding to half or bfloat16 is nearly all of the error. The float32 reference
    is itself 2 to 4 units off after four roundings, at other elements than the kernel: there its largest error
    counts, taken as 2 where a small tensor shows less.
    """
    for result, reference, exact in zip(results, ops.add_rms_norm(*case), exact_norm(case), strict=True):
        assert result.dtype == reference.dtype and result.shape == reference.shape
        unit = unit_in_the_last_place(exact, result.dtype)
        own = (reference.double() - exact).abs() / unit
        if result.dtype == torch.float32 and own.numel():
            own = own.max().clamp(min=2)
        assert bool(((result.double() - exact).abs() / unit <= own + 1).all())
