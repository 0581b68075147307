# SPDX-License-Identifier: Apache-2.0
"""Pooling, resizing and norms of pictures on the emulator, forward and backward, against float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator

Program = Callable[[torch.Tensor], torch.Tensor]


def grid(x: torch.Tensor, count: int) -> torch.Tensor:
    """Returns places in x to sample at, some of them outside: ``[batch, 3, 5 (, 2), count]``."""
    shape = (x.shape[0], 3, 5, 2)[: count + 1]
    places = torch.linspace(-1.2, 1.1, int(torch.Size(shape).numel()) * count)
    return places[torch.arange(len(places)).mul(7) % len(places)].reshape(*shape, count).to(x.device, x.dtype)


LINES = {
    "nearest": lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest"),
    "nearest to a size": lambda x: F.interpolate(x, size=(11,), mode="nearest"),
    "nearest exact": lambda x: F.interpolate(x, size=(11,), mode="nearest-exact"),
    "reflected": lambda x: F.pad(x, (2, 3), mode="reflect"),
    "replicated": lambda x: F.pad(x, (2, 3), mode="replicate"),
    "linear": lambda x: F.interpolate(x, size=(11,), mode="linear", align_corners=False),
    "linear with corners": lambda x: F.interpolate(x, size=(5,), mode="linear", align_corners=True),
}
PICTURES: dict[str, Program] = {
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average with a divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "largest": lambda x: F.max_pool2d(x, 3, 2, 1),
    "largest with gaps": lambda x: F.max_pool2d(x, 2, 1, 0, 2, ceil_mode=True),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive largest": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "reflected": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicated": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "taken apart": lambda x: F.unfold(x, (3, 2), padding=1, stride=2),
    "put together": lambda x: F.fold(x.flatten(1, 2), (9, 7), (2, 2), stride=(8, 1)).reshape(2, 8, -1),
    "grid, bilinear": lambda x: F.grid_sample(x, grid(x, 2), align_corners=False),
    "grid, nearest": lambda x: F.grid_sample(x, grid(x, 2), "nearest", "border", align_corners=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest"),
    "nearest exact": lambda x: F.interpolate(x, size=(5, 11), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, size=(5, 11), mode="bilinear", align_corners=False),
    "bilinear with corners": lambda x: F.interpolate(
        x, scale_factor=(1.5, 2.0), mode="bilinear", align_corners=True
    ),
    "bilinear, smoothed": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
    "bicubic": lambda x: F.interpolate(x, size=(5, 11), mode="bicubic", align_corners=False),
    "bicubic, smoothed": lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
}
VOLUMES: dict[str, Program] = {
    "average": lambda x: F.avg_pool3d(x, 2, 1, 1),
    "largest": lambda x: F.max_pool3d(x, 2, 2),
    "adaptive average": lambda x: F.adaptive_avg_pool3d(x, (3, 4, 5)),
    "adaptive largest": lambda x: F.adaptive_max_pool3d(x, (3, 4, 5)),
    "reflected": lambda x: F.pad(x, (1, 2, 3, 0, 1, 1), mode="reflect"),
    "replicated": lambda x: F.pad(x, (1, 2, 3, 0, 1, 1), mode="replicate"),
    "grid": lambda x: F.grid_sample(x, grid(x, 3), padding_mode="reflection", align_corners=False),
    "nearest": lambda x: F.interpolate(x, size=(3, 5, 9), mode="nearest"),
    "nearest exact": lambda x: F.interpolate(x, size=(3, 5, 9), mode="nearest-exact"),
    "trilinear": lambda x: F.interpolate(x, size=(3, 5, 9), mode="trilinear", align_corners=False),
}


def forward_and_backward(program: Program, x: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    result = program(x)
    loss = result.sum() if weights is None else (result * weights).sum()
    loss.backward()
    assert x.grad is not None
    return [result.detach(), x.grad]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@pytest.mark.parametrize(
    ("shape", "program"),
    [
        pytest.param(shape, program, id=f"{len(shape) - 2}d {name}")
        for shape, programs in (((2, 4, 7), LINES), ((2, 4, 8, 6), PICTURES), ((2, 4, 4, 6, 8), VOLUMES))
        for name, program in programs.items()
    ],
)
def test_forward_and_backward(shape: tuple[int, ...], program: Program, dtype: torch.dtype) -> None:
    # distinct numbers, so that the largest of a window is one, exact in half precision
    x = (torch.randperm(torch.Size(shape).numel()).reshape(shape) / 8).to(dtype)
    x = x / 16 if dtype == torch.float16 else x / 64
    result = program(x.double())
    weights = torch.randint(-4, 5, result.shape) / 4
    expected = forward_and_backward(program, x.double(), weights.double())
    actual = forward_and_backward(program, x.npu(), weights.to(dtype).npu())
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        assert_close(ours, theirs)


def test_batch_norm_backward() -> None:
    x, grad, weight = torch.randn(3, 4, 5, 2), torch.randn(3, 4, 5, 2), torch.rand(4)
    results = []
    for device, dtype in (("npu", torch.float32), ("cpu", torch.float64)):
        wide = [value.to(device, dtype) for value in (grad, x, weight)]
        mean, invstd = wide[1].mean((0, 2, 3)), (wide[1].var((0, 2, 3), unbiased=False) + 1e-5).rsqrt()
        results.append(
            torch.ops.aten.native_batch_norm_backward(
                *wide, torch.zeros_like(mean), torch.ones_like(mean), mean, invstd, True, 1e-5, [True, True, True]
            )
        )
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


def test_statistics_of_all_ranks() -> None:
    """Of two ranks with 15 and 20 elements a channel, as SyncBatchNorm computes it."""
    parts = [torch.randn(3, 4, 5) + 1, torch.randn(4, 4, 5) * 2]
    everything = torch.cat(parts).double()
    found = [torch.batch_norm_stats(part.npu(), 1e-3) for part in parts]
    for (mean, invstd), part in zip(found, parts, strict=True):
        assert_close(mean, part.double().mean((0, 2)))
        assert_close(invstd, (part.double().var((0, 2), unbiased=False) + 1e-3).rsqrt())
    running = [torch.ones(4).npu(), torch.ones(4).npu()]
    counts = torch.tensor([15.0, 20.0]).npu()
    means, invstds = (torch.stack(values) for values in zip(*found, strict=True))
    mean, invstd = torch.batch_norm_gather_stats_with_counts(
        parts[0].npu(), means, invstds, *running, 0.25, 1e-3, counts
    )
    expected = [everything.mean((0, 2)), (everything.var((0, 2), unbiased=False) + 1e-3).rsqrt()]
    expected += [0.75 + 0.25 * everything.mean((0, 2)), 0.75 + 0.25 * everything.var((0, 2))]
    for ours, theirs in zip((mean, invstd, *running), expected, strict=True):
        assert_close(ours, theirs)


def test_gradient_by_statistics_of_all_ranks() -> None:
    x, grad, weight = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.rand(4)
    wide = x.double().requires_grad_()
    F.batch_norm(wide, None, None, weight.double(), None, True, 0.1, 1e-3).backward(grad.double())
    mean, invstd = x.mean((0, 2)), (x.var((0, 2), unbiased=False) + 1e-3).rsqrt()
    centred = (grad * (x - mean.view(1, 4, 1))).sum((0, 2))
    on_device = [value.npu() for value in (grad, x, mean, invstd, weight, grad.sum((0, 2)), centred)]
    assert wide.grad is not None
    assert_close(torch.batch_norm_backward_elemt(*on_device, torch.tensor([7, 8]).npu()), wide.grad)


@pytest.mark.parametrize("affine", (True, False))
def test_group_norm(affine: bool) -> None:
    x, weight, bias = torch.randn(3, 6, 4, 2), torch.rand(6), torch.randn(6)
    found = []
    for device, dtype in (("npu", torch.float32), ("cpu", torch.float64)):
        given = [value.to(device, dtype).requires_grad_() for value in (x, weight, bias)]
        result = F.group_norm(given[0], 3, *(given[1:] if affine else (None, None)), eps=1e-3)
        result.square().sum().backward()
        found.append([result.detach(), *(value.grad for value in given if value.grad is not None)])
    assert len(found[0]) == len(found[1]) == (4 if affine else 2)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.float(), rtol=1e-4, atol=1e-4)


def test_largest_ones_put_back() -> None:
    """By the places that the CPU finds: the device's max_pool2d gives a mask of its own form for them."""
    x = torch.randperm(192).reshape(2, 4, 6, 4) / 8
    values, places = F.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(F.max_unpool2d(values.npu(), places.npu(), 2).cpu(), F.max_unpool2d(values, places, 2))
    x = torch.randperm(384).reshape(2, 2, 4, 6, 4) / 8
    values, places = F.max_pool3d(x, 2, return_indices=True)
    assert torch.equal(F.max_unpool3d(values.npu(), places.npu(), 2).cpu(), F.max_unpool3d(values, places, 2))


def test_synchronised_batch_norm() -> None:
    x, grad = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    mean, invstd, weight, bias = torch.randn(4), torch.rand(4), torch.rand(4), torch.randn(4)
    on_device = [value.npu() for value in (x, weight, bias, mean, invstd)]
    shape = (1, 4, 1)
    centred = x.double() - mean.double().view(shape)
    expected = centred * invstd.double().view(shape) * weight.double().view(shape) + bias.double().view(shape)
    assert_close(torch.batch_norm_elemt(*on_device, 1e-5), expected)
    found = torch.batch_norm_backward_reduce(
        grad.npu(), x.npu(), mean.npu(), invstd.npu(), weight.npu(), True, True, True
    )
    total, both = grad.double().sum((0, 2)), (grad.double() * centred).sum((0, 2))
    for ours, theirs in zip(found, (total, both, both * invstd.double(), total), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("shape", ((6, 4), (3, 4, 5, 2), (3, 4, 2, 3, 2)))
@pytest.mark.parametrize("training", (True, False))
def test_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    """By torch_npu's single-operator interface, for it has no aclnn function for it."""
    x, weight, bias = torch.randn(shape) * 2 + 1, torch.rand(4), torch.randn(4)
    mean, variance = torch.randn(4), torch.rand(4) + 0.5
    found = []
    for device, dtype in (("npu", torch.float32), ("cpu", torch.float64)):
        running = [value.to(device, dtype, copy=True) for value in (mean, variance)]
        given, scale, offset = (value.to(device, dtype).requires_grad_() for value in (x, weight, bias))
        result = F.batch_norm(given, *running, scale, offset, training, 0.3, 1e-3)
        found.append([result.detach(), *running])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)
    assert torch.equal(found[0][1].cpu(), mean) != training


def test_broadcast_of_one_operator() -> None:
    import torch_npu

    x = torch.randn(3, 1, 2)
    assert torch.equal(torch_npu.npu_broadcast(x.npu(), [3, 4, 2]).cpu(), x.expand(3, 4, 2))
    logits, target, factor = torch.randn(5, 3), torch.rand(5, 3), torch.rand(3)
    loss = F.binary_cross_entropy_with_logits(logits.npu(), target.npu(), pos_weight=factor.npu())
    expected = F.binary_cross_entropy_with_logits(logits.double(), target.double(), pos_weight=factor.double())
    assert_close(loss, expected)


def test_an_operator_of_the_interface_waits_for_its_stream(race_reports: Any) -> None:
    import torch_npu

    x, stream = torch.randn(64, 1).npu(), torch.npu.Stream()
    torch.npu.synchronize()
    x.add_(1)
    with torch.npu.stream(stream):
        torch_npu.npu_broadcast(x, [64, 8])
    torch.npu.synchronize()
    (report,) = race_reports.take()
    assert "BroadcastTo" in report and "aclnnInplaceAdds" in report
