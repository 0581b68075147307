# SPDX-License-Identifier: Apache-2.0
"""Lists what test_operators.py compares: small programs of torch operators on two tensors ``[4, 6]`` and the
device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

Case = Callable[[torch.Tensor, torch.Tensor], Any]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int32, torch.int64)


def index(x: torch.Tensor, *values: int) -> torch.Tensor:
    """Returns a one-dimensional index on x's device."""
    return torch.tensor(values, device=x.device)


def columns(x: torch.Tensor) -> torch.Tensor:
    """Returns an index ``[4, 2]`` into six columns, with a column named twice in a row."""
    return torch.tensor([[0, 1], [2, 3], [4, 4], [5, 0]], device=x.device)


def one_way(x: torch.Tensor) -> torch.Tensor:
    """Returns an index ``[4, 2]`` that names no column of a row twice."""
    return torch.tensor([[0, 1], [2, 3], [4, 5], [5, 0]], device=x.device)


NUMBERS: dict[str, Case] = {
    "add": lambda x, y: x + y,
    "add scalar": lambda x, y: x + 3,
    "add in place": lambda x, y: x.clone().add_(y, alpha=2),
    "add to out": lambda x, y: torch.add(x, y, out=torch.empty_like(x)),
    "add a row": lambda x, y: x + y[0],
    "add a column": lambda x, y: x + y[:, :1],
    "add transposed": lambda x, y: x.t() + y.t(),
    "add strided": lambda x, y: x[:, ::2] + y[:, 1::2],
    "add empty": lambda x, y: x[:0] + y[:0],
    "sub": lambda x, y: x - y,
    "sub from scalar": lambda x, y: 5 - x,
    "mul": lambda x, y: x * y,
    "mul to transposed out": lambda x, y: torch.mul(x, y, out=x.t().contiguous().t()),
    "mul into a slice": lambda x, y: x.clone()[:, 1:3].mul_(y[:, 3:5]),
    "div": lambda x, y: x / (y + 100),
    "div floor": lambda x, y: torch.div(x, y + 100, rounding_mode="floor"),
    "div trunc": lambda x, y: torch.div(x, y + 100, rounding_mode="trunc"),
    "floor divide": lambda x, y: x // 7,
    "remainder": lambda x, y: (x % (y + 100), x % 7),
    "fmod": lambda x, y: torch.fmod(x, y + 100),
    "power": lambda x, y: x**2,
    "maximum": lambda x, y: (torch.maximum(x, y), torch.minimum(x, y)),
    "abs neg sign": lambda x, y: (x.abs(), -x, x.sign()),
    "clamp": lambda x, y: (x.clamp(-1, 2), x.clamp(min=0), x.clamp(max=1), torch.clamp(x, min=y)),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=2),
    "compare": lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y),
    "compare with scalar": lambda x, y: (x == 3, x != 3, x < 3, x <= 3, x > 3, x >= 3),
    "equal": lambda x, y: torch.tensor([torch.equal(x, x.clone()), torch.equal(x, y)]),
    "where": lambda x, y: (torch.where(x > 0, x, y), torch.where(x > 0, x, 0), torch.where(x > 0, 1, 0)),
    "masked fill": lambda x, y: (x.masked_fill(y > 0, 7), x.clone().masked_fill_(y[:1] > 0, 7)),
    "masked select": lambda x, y: (x.masked_select(x > 0), x[y > 0]),
    "masked scatter": lambda x, y: x.clone().masked_scatter_(x > 0, y),
    "nonzero": lambda x, y: ((x > 0).nonzero(), (x[:0] > 0).nonzero()),
    "unique": lambda x, y: torch.unique(x.flatten() // 4, return_inverse=True, return_counts=True),
    "is in": lambda x, y: torch.isin(x, 3),
    "cast": lambda x, y: (x.float(), x.to(torch.bfloat16), x.int(), x.long(), x.bool(), x.half()),
    "fill": lambda x, y: (torch.full_like(x, 3), torch.zeros_like(x), torch.ones_like(x), x.clone().fill_(2)),
    "copy": lambda x, y: (x[:, ::2].contiguous(), x.t().clone(), x[0].expand(3, 6).contiguous()),
    "copy into a slice": lambda x, y: x.clone()[:, 1:3].copy_(y[:, 3:5]),
    "cat and stack": lambda x, y: (torch.cat([x, y[:, :2]], 1), torch.stack([x, y], 1), torch.cat([x[:0], y])),
    "split": lambda x, y: [part.clone() for part in x.split([1, 5], 1)],
    "flip and roll": lambda x, y: (x.flip(1), x.roll(2, 1)),
    "repeat": lambda x, y: (x.repeat(2, 3), x.repeat_interleave(2, 1)),
    "repeat by tensor": lambda x, y: x.repeat_interleave(index(x, 0, 2, 1, 3, 0, 1), 1),
    "pad": lambda x, y: F.pad(x, (1, 2), value=4),
    "triangles": lambda x, y: (x.triu(1), x.tril(), x.clone().tril_(-1)),
    "diagonal": lambda x, y: x.clone().fill_diagonal_(5),
    "arange": lambda x, y: torch.arange(3, 20, 2, device=x.device, dtype=x.dtype),
    "sum": lambda x, y: (x.sum(), x.sum(1), x.sum(0, keepdim=True), x[:0].sum(0)),
    "max and min": lambda x, y: (x.max(), x.min(), x.max(1), x.min(0), x.amax(1), x.amin((0, 1))),
    "argmax": lambda x, y: (x.argmax(-1), x.argmin(0), x.argmax()),
    "any and all": lambda x, y: ((x > 2).any(), (x > -9).all(1), x.any(0), (x[:0] > 0).all()),
    "product": lambda x, y: x[:1, :3].prod(),
    "cumulative": lambda x, y: (x.cumsum(1), x.cummax(1)[0], x.cummin(0)[0]),
    "sort": lambda x, y: (x.sort(dim=-1, stable=True), x.argsort(dim=0, stable=True, descending=True)),
    "top k": lambda x, y: x.topk(3, -1)[0],
    "median": lambda x, y: x.flatten().median(),
    "index": lambda x, y: (x[index(x, 0, 2)], x[:, index(x, 5, 0, 0)], x[index(x, 0, 1), index(x, 2, 3)]),
    "index put": lambda x, y: x.clone().index_put_((index(x, 1, 3),), y[:2]),
    "index put adding": lambda x, y: x.clone().index_put_((index(x, 1, 1),), y[:2], accumulate=True),
    "index put by mask": lambda x, y: x.clone().index_put_((x > 0,), index(x, 9)[0].to(x.dtype)),
    "index select": lambda x, y: (x.index_select(1, index(x, 0, 3, 3)), x.index_select(0, index(x, 1).int())),
    "index add": lambda x, y: x.clone().index_add_(0, index(x, 1, 1, 0), y[:3]),
    "index copy": lambda x, y: x.clone().index_copy_(0, index(x, 1, 3), y[:2]),
    "index fill": lambda x, y: x.clone().index_fill_(0, index(x, 1, 3), 4),
    "gather": lambda x, y: x.gather(1, columns(x)),
    "scatter": lambda x, y: (x.clone().scatter_(1, one_way(x), y[:, :2]), x.scatter(1, columns(x), 9)),
    "scatter add": lambda x, y: (x.clone().scatter_add_(1, columns(x), y[:, :2]), x.scatter_add(1, columns(x), y)),
    "take": lambda x, y: torch.take(x, index(x, 0, 5, 7)),
    "search sorted": lambda x, y: torch.searchsorted(x.flatten().sort()[0], y),
    "bucketize": lambda x, y: torch.bucketize(x, index(x, -1, 0, 1).to(x.dtype)),
    "item": lambda x, y: torch.tensor(x.sum().item()),
}

REALS: dict[str, Case] = {
    "roots and logs": lambda x, y: [op(x.abs() + 0.1) for op in (torch.sqrt, torch.rsqrt, torch.log, torch.log1p)],
    "more logs": lambda x, y: [op(x.abs() + 0.1) for op in (torch.log2, torch.log10, torch.reciprocal)],
    "exponentials": lambda x, y: [op(x) for op in (torch.exp, torch.exp2, torch.expm1)],
    "trigonometry": lambda x, y: [op(x * 0.3) for op in (torch.sin, torch.cos, torch.tan, torch.asin, torch.atan)],
    "hyperbolic": lambda x, y: [op(x) for op in (torch.sinh, torch.cosh, torch.tanh)],
    "rounding": lambda x, y: [op(x * 3) for op in (torch.floor, torch.ceil, torch.round, torch.trunc)],
    "in place": lambda x, y: [getattr(x.clone(), op)() for op in ("exp_", "relu_", "sigmoid_", "neg_", "floor_")],
    "finite": lambda x, y: (torch.isfinite(x), torch.isnan(x / 0), torch.isinf(x / 0), torch.nan_to_num(x / 0)),
    "two operands": lambda x, y: (torch.atan2(x, y), torch.logaddexp(x, y), x.abs() ** y, 2**x, x.abs() ** 0.5),
    "lerp": lambda x, y: (torch.lerp(x, y, 0.3), torch.lerp(x, y, y), torch.addcdiv(x, y, y.abs() + 1, value=0.5)),
    "activations": lambda x, y: [op(x) for op in (F.silu, F.gelu, F.relu, F.softplus, F.elu, F.mish)],
    "more activations": lambda x, y: [op(x) for op in (F.leaky_relu, F.hardswish, F.hardsigmoid, F.logsigmoid)],
    "gated": lambda x, y: (F.glu(x), F.glu(x, 0)),
    "softmax": lambda x, y: (x.softmax(-1), x.log_softmax(0), x.softmax(-1, dtype=torch.float32), x.logsumexp(-1)),
    "moments": lambda x, y: (x.mean(-1), x.mean(), x.std(-1), x.var(0), torch.var_mean(x, 1)),
    "norms": lambda x, y: (x.norm(), torch.linalg.vector_norm(x, dim=1), F.layer_norm(x, (6,), x[0], y[0])),
    "cumulative product": lambda x, y: x.cumprod(1),
    "kth value": lambda x, y: x.kthvalue(2, 1),
    "linspace": lambda x, y: torch.linspace(0, 1, 7, device=x.device, dtype=x.dtype),
    "embedding": lambda x, y: (F.embedding(index(x, 0, 3, 1), x), F.embedding(columns(x)[:2].int(), x)),
    "matrix product": lambda x, y: (x @ y.t(), x.t() @ y, x @ y[0], torch.dot(x[0], y[0])),
    "batched product": lambda x, y: (torch.bmm(x[None], y.t()[None]), torch.matmul(x[None, None], y.t())),
    "product and sum": lambda x, y: (torch.addmm(y[:, :4], x, y.t()), F.linear(x, y, y[0, :4])),
    "losses": lambda x, y: (F.mse_loss(x, y), F.l1_loss(x, y), F.smooth_l1_loss(x, y)),
    "divergence": lambda x, y: F.kl_div(x, y.softmax(-1), reduction="batchmean"),
    "convolution": lambda x, y: F.conv1d(x[None], y[None, :, :3], y[0, :1]),
}

BITS: dict[str, Case] = {
    "bits": lambda x, y: (x & y, x | y, x ^ y, ~x, x & 1, x | 1, x ^ 1),
    "bits in place": lambda x, y: (x.clone().bitwise_and_(y), x.clone().bitwise_or_(y), x.clone().bitwise_xor_(y)),
    "logic": lambda x, y: (torch.logical_and(x, y), torch.logical_or(x, y), torch.logical_xor(x, y), ~x.bool()),
    "count": lambda x, y: (x.bool().sum(), x.any(), x.all(0)),
}

COUNTS: dict[str, Case] = {
    "bincount": lambda x, y: (torch.bincount(x.flatten().abs()), torch.bincount(x[0].abs(), minlength=50)),
    "bincount weighted": lambda x, y: torch.bincount(x.flatten().abs(), y.flatten().float()),
    "one hot": lambda x, y: F.one_hot(x[0].abs().long(), 30),
    "shifts": lambda x, y: (x << 2, x >> 1, x << (y.abs() % 4)),
}


def cases(*tables: tuple[dict[str, Case], Sequence[torch.dtype]]) -> list[tuple[str, Case, torch.dtype]]:
    """Yields every case of every table with every dtype of the table."""
    every = ((name, case, dtype) for table, dtypes in tables for name, case in table.items() for dtype in dtypes)
    return [(f"{name}, {dtype}", case, dtype) for name, case, dtype in every]


ALL = cases(
    (NUMBERS, FLOATS + INTEGERS), (REALS, FLOATS), (BITS, (*INTEGERS, torch.bool)), (COUNTS, INTEGERS)
)  # fmt: skip
