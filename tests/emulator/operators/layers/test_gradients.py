# SPDX-License-Identifier: Apache-2.0
"""Activations and losses on the emulator, forward and backward, against float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator

Activation = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]

LABELS = [[2, 0, -1, 1, 3, 4], [5, -1, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0], [-1, 0, 0, 0, 0, 0]]  # up to -1
ACTIVATIONS: dict[str, Activation] = {
    "mish": F.mish,
    "elu": lambda x: F.elu(x, 0.7),
    "elu of its result": lambda x: F.elu_(x.clone(), 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "prelu": lambda x: F.prelu(x, x.new_tensor([0.3])),
    "logit": lambda x: torch.logit(x * 0.3 + 0.4, eps=0.1),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "softshrink": lambda x: F.softshrink(x, 0.3),
}
LOSSES: dict[str, Loss] = {
    "mse": lambda x, y, reduction: F.mse_loss(x, y, reduction=reduction),
    "l1": lambda x, y, reduction: F.l1_loss(x, y, reduction=reduction),
    "smooth l1": lambda x, y, reduction: F.smooth_l1_loss(x, y, reduction=reduction, beta=0.5),
    "kl": lambda x, y, reduction: F.kl_div(F.log_softmax(x, -1), y.sigmoid(), reduction=reduction),
    "kl of logarithms": lambda x, y, reduction: F.kl_div(x, y, reduction=reduction, log_target=True),
    "binary": lambda x, y, reduction: F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), reduction=reduction),
    "binary, weighted": lambda x, y, reduction: F.binary_cross_entropy_with_logits(
        x, y.sigmoid(), x.detach()[:1].abs(), pos_weight=x.detach()[0].abs(), reduction=reduction
    ),
    "soft margin": lambda x, y, reduction: F.soft_margin_loss(x, y.sign(), reduction=reduction),
}


def gradients(program: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().clone().requires_grad_()
    result = program(x)
    (result * torch.arange(1, result.numel() + 1).reshape(result.shape).to(x.device, x.dtype) / 8).sum().backward()
    assert x.grad is not None
    return [result.detach(), x.grad]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
@pytest.mark.parametrize("program", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_activations(program: Activation, dtype: torch.dtype) -> None:
    x = (torch.randperm(24).reshape(4, 6) / 8 - 1.43).to(dtype)
    actual, expected = gradients(program, x.npu()), gradients(program, x.double())
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
@pytest.mark.parametrize("program", LOSSES.values(), ids=LOSSES.keys())
def test_losses(program: Loss, reduction: str, dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 4, 6).to(dtype)
    actual = gradients(lambda x: program(x, y.npu(), reduction), x.npu())
    expected = gradients(lambda x: program(x, y.double(), reduction), x.double())
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
def test_several_labels(reduction: str) -> None:
    """The gradient is computed on the CPU: torch_npu has none, nor the CPU one of half precision."""
    x = torch.randn(4, 6)

    def program(x: torch.Tensor) -> torch.Tensor:
        return F.multilabel_margin_loss(x, torch.tensor(LABELS, device=x.device), reduction=reduction)

    for ours, theirs in zip(gradients(program, x.npu()), gradients(program, x.double()), strict=True):
        assert_close(ours, theirs)
    assert_close(program(x.half().npu()), program(x.half().double()))


@pytest.mark.parametrize("reduction", ("none", "mean"))
def test_ctc(reduction: str) -> None:
    x = torch.randn(9, 3, 5)
    targets, lengths = torch.tensor([[1, 2, 2, 3], [4, 1, 0, 0], [3, 0, 0, 0]]), (4, 2, 1)

    def program(x: torch.Tensor) -> torch.Tensor:
        return F.ctc_loss(x.log_softmax(-1), targets.to(x.device), (9, 7, 5), lengths, reduction=reduction)

    for ours, theirs in zip(gradients(program, x.npu()), gradients(program, x.double()), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", ("ceil", "floor", "round", "trunc", "frac"))
def test_rounding_of_lists(name: str) -> None:
    lists = [torch.randn(3, 4) * 3, torch.tensor([0.5, -0.5, 1.5, -2.5])]
    for in_place in ("", "_"):
        given = [value.npu() for value in lists]
        result = getattr(torch, f"_foreach_{name}{in_place}")(given) or given
        for ours, value in zip(result, lists, strict=True):
            assert torch.equal(ours.cpu(), getattr(torch, name)(value))


def test_operands_of_two_types() -> None:
    matrix, vector, start = torch.randn(3, 4), torch.randn(4), torch.randn(3).half()
    expected = start.float() + matrix @ vector
    assert_close(torch.addmv(start.npu(), matrix.npu(), vector.npu()), expected)


IN_SINGLE: dict[str, Activation] = {
    "prod": lambda x: x.prod(),
    "prod of rows": lambda x: x.prod(1),
    "cumprod": lambda x: x.cumprod(1),
    "glu backward": lambda x: torch.ops.aten.glu_backward(x[:, :32], x, 1),
    "addr": lambda x: torch.addr(-x[:, :8], x[:, 0], x[0, :8]),
    "addr in place": lambda x: (-x[:, :8]).addr_(x[:, 0], x[0, :8]),
    "cross": lambda x: torch.linalg.cross(x[:3], x[3:6], dim=0),
    "pdist": F.pdist,
    "embedding backward": lambda x: torch.ops.aten.embedding_dense_backward(
        x, torch.tensor([1, 0, 1, 1, 0, 1, 1, 1], device=x.device), 2, -1, False
    ),
}


@pytest.mark.parametrize("program", IN_SINGLE.values(), ids=IN_SINGLE.keys())
def test_half_precision_is_rounded_once(program: Activation) -> None:
    x = (1 + torch.randn(8, 64) / 16).half()
    found = program(x.npu())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.cpu(), program(x.double()).half(), rtol=1.01 * 2**-10, atol=0)


def test_slopes_of_channels() -> None:
    x, slopes = torch.randn(3, 4, 5), torch.rand(4)
    found = []
    for device, dtype in (("npu", torch.float32), ("cpu", torch.float64)):
        given = [value.to(device, dtype).requires_grad_() for value in (x, slopes)]
        F.prelu(*given).square().sum().backward()
        found.append([value.grad for value in given])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("tanh", (0, 1))
@pytest.mark.parametrize("left", (False, True))
def test_gated_gelu(left: bool, tanh: int) -> None:
    import torch_npu

    x = torch.randn(3, 8)

    def reference(x: torch.Tensor) -> torch.Tensor:
        active, other = x.chunk(2, -1) if left else x.chunk(2, -1)[::-1]
        return F.gelu(active, approximate="tanh" if tanh else "none") * other

    actual = gradients(lambda x: torch_npu.npu_geglu(x, -1, tanh, left)[0], x.npu())
    for ours, theirs in zip(actual, gradients(reference, x.double()), strict=True):
        assert_close(ours, theirs)


def test_fast_gelu() -> None:
    import torch_npu

    x = torch.randn(4, 6) * 2
    expected = gradients(lambda x: x * torch.sigmoid(1.702 * x), x.double())
    for ours, theirs in zip(gradients(torch_npu.npu_fast_gelu, x.npu()), expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("mode", ("half", "interleave"))
def test_rotary_embedding(mode: str) -> None:
    import torch_npu

    x, cos, sin = torch.randn(2, 3, 5, 8), torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    wide = [value.double().requires_grad_() for value in (x, cos, sin)]
    if mode == "half":
        first, second = wide[0].chunk(2, -1)
        turned = torch.cat([-second, first], -1)
    else:
        turned = torch.stack([-wide[0][..., 1::2], wide[0][..., ::2]], -1).flatten(-2)
    (wide[0] * wide[1] + turned * wide[2]).square().sum().backward()
    given = [value.npu().requires_grad_() for value in (x, cos, sin)]
    torch_npu.npu_rotary_mul(*given, mode).square().sum().backward()
    for ours, theirs in zip(given, wide, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_rows", (None, 7))
def test_tokens_to_experts_and_back(num_rows: int | None) -> None:
    """What is permuted, weighted and put back has the gradients of a sum over the kept copies of a token."""
    import torch_npu

    tokens, weights = torch.randn(5, 4), torch.rand(5, 2)
    experts = torch.tensor([[2, 0], [1, 3], [0, 1], [3, 2], [2, 3]])
    given = [value.npu().requires_grad_() for value in (tokens, weights)]
    permuted, places = torch_npu.npu_moe_token_permute(given[0], experts.npu(), num_rows)
    result = torch_npu.npu_moe_token_unpermute(permuted, places, given[1])
    result.square().sum().backward()
    wide = [value.double().requires_grad_() for value in (tokens, weights)]
    kept = (experts.flatten().argsort(stable=True).argsort() < (num_rows or 10)).reshape(5, 2)
    expected = (wide[0].unsqueeze(1) * (wide[1] * kept).unsqueeze(-1)).sum(1)
    expected.square().sum().backward()
    assert_close(result.detach(), expected.detach())
    for ours, theirs in zip(given, wide, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert_close(ours.grad, theirs.grad)


def test_median_of_rows_beside_nan() -> None:
    x = torch.randn(4, 7)
    x[1, 2:5] = float("nan")
    found = x.npu().nanmedian(1)
    assert torch.equal(found.values.cpu(), x.nanmedian(1).values)
    assert torch.equal(found.indices.cpu(), x.nanmedian(1).indices)


def test_hard_sigmoid_of_integers_is_cut_off() -> None:
    x = torch.arange(-6, 7, dtype=torch.int32)
    expected = F.hardsigmoid(x.float()).int()
    assert torch.equal(F.hardsigmoid(x.npu()).cpu(), expected)
    assert torch.equal(F.hardsigmoid(x.npu(), inplace=True).cpu(), expected)
