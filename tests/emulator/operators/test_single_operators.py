# SPDX-License-Identifier: Apache-2.0
"""Operators of torch_npu's single-operator interface, which it takes where it has no aclnn function or is told to
compile each operator, against the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator


@pytest.fixture
def compiled() -> Iterator[None]:
    """torch_npu then takes this interface for every operator that has both."""
    import torch_npu  # noqa: F401

    torch.npu.set_compile_mode(jit_compile=True)
    yield
    torch.npu.set_compile_mode(jit_compile=False)


def test_sorted_values_and_their_places() -> None:
    import torch_npu

    x = torch.randperm(60).reshape(3, 4, 5).half()
    for dim in (0, -1):
        for descending in (False, True):
            found = torch_npu.npu_sort_v2(x.npu(), dim=dim, descending=descending)
            assert torch.equal(found.cpu(), torch.sort(x, dim, descending)[0])


def test_parts_and_other_orders() -> None:
    import torch_npu

    x = torch.randn(3, 4, 5)
    assert torch.equal(torch_npu.npu_transpose(x.npu(), (2, 0, 1)).cpu(), x.permute(2, 0, 1))
    assert torch.equal(torch_npu.npu_slice(x.npu(), [1, 0, 2], [2, 3, 1]).cpu(), x[1:3, :3, 2:3])
    padded = torch_npu.npu_pad(x.npu(), [0, 0, 1, 2, 3, 0]).cpu()
    assert torch.equal(padded, torch.nn.functional.pad(x, (3, 0, 1, 2)))


@pytest.mark.parametrize("keep", (False, True))
def test_the_largest_and_the_smallest(keep: bool) -> None:
    import torch_npu

    x = torch.randperm(60).reshape(3, 4, 5).float()
    for ours, theirs in ((torch_npu.npu_max, torch.max), (torch_npu.npu_min, torch.min)):
        values, places = ours(x.npu(), 1, keep)
        expected = theirs(x, 1, keep)
        assert torch.equal(values.cpu(), expected[0]) and torch.equal(places.cpu().long(), expected[1])


@pytest.mark.parametrize("p", (0.0, 0.5, 1.0, 1.5, 2.0, float("inf"), 3.5))
def test_gradient_of_distances(p: float) -> None:
    rows, others = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    others[0, 1] = rows[0, 2]
    found = []
    for device, dtype in (("npu", torch.float32), ("cpu", torch.float64)):
        given = [value.to(device, dtype).requires_grad_() for value in (rows, others)]
        distances = torch.cdist(*given, p=p)
        distances.square().sum().backward()
        found.append([distances.detach(), *(value.grad for value in given)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.float(), rtol=1e-4, atol=1e-4)


def test_every_second_place_and_shapes() -> None:
    import torch_npu

    x = torch.randn(4, 6, 5)
    found = torch_npu.npu_indexing(x.npu(), [1, 0, 2], [4, 6, 5], [2, 3, 1], 0, 0, 0, 0, 0)
    assert torch.equal(found.cpu(), x[1:4:2, ::3, 2:])
    given = x.npu().requires_grad_()
    found = torch_npu.npu_confusion_transpose(given, (1, 0, 2), (6, 20), True)
    assert torch.equal(found.detach().cpu(), x.permute(1, 0, 2).reshape(6, 20))
    found.square().sum().backward()
    assert given.grad is not None
    assert_close(given.grad, 2 * x)
    found = torch_npu.npu_confusion_transpose(x.npu(), (1, 0), (8, 15), False)
    assert torch.equal(found.cpu(), x.reshape(8, 15).t())


def test_one_of_each_row() -> None:
    import torch_npu

    places = torch.tensor([[2, 0], [4, 3]])
    found = torch_npu.npu_one_hot(places.npu(), depth=5)
    assert torch.equal(found.cpu(), torch.nn.functional.one_hot(places, 5).float())
    found = torch_npu.npu_one_hot(places.npu(), -1, 5, 3, -1)
    assert torch.equal(found.cpu(), torch.nn.functional.one_hot(places, 5).float() * 4 - 1)


@pytest.mark.parametrize("p", (0.5, 1.5, 4.0))
def test_norms_of_other_powers(p: float) -> None:
    x = torch.randn(3, 4, 5)
    for dtype in (torch.float32, torch.float16):
        given = x.to(dtype)
        assert_close(torch.norm(given.npu(), p, (0, 2), keepdim=True), torch.norm(given.double(), p, (0, 2), True))
        assert_close(torch.norm(given.npu(), p), torch.norm(given.double(), p))


def test_steps_of_adam() -> None:
    import torch_npu

    start, grads = torch.randn(7), torch.randn(3, 7)
    for kind in ("adam", "adamw"):
        expected = start.double().requires_grad_()
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]([expected], lr=0.01)
        parameter, first, second = start.npu(), torch.zeros(7).npu(), torch.zeros(7).npu()
        for step, grad in enumerate(grads, 1):
            expected.grad = grad.double()
            optimizer.step()
            powers = (0.9**step, 0.999**step)
            if kind == "adamw":
                numbers = (*powers, 0.01, 0.01, 0.9, 0.999, 1e-8)
                torch_npu.npu_apply_adam_w(
                    *numbers, grad.npu(), None, False, False, out=(parameter, first, second)
                )
            else:
                numbers = (*powers, 0.01, 0.9, 0.999, 1e-8)
                torch_npu.npu_apply_adam(*numbers, grad.npu(), False, False, out=(parameter, first, second))
        assert_close(parameter, expected.detach())


@pytest.mark.usefixtures("compiled")
def test_compiled_operators() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert_close(a.npu() @ b.npu(), a.double() @ b.double())
    assert_close(a.t().contiguous().npu().t() @ b.t().contiguous().npu().t(), a.double() @ b.double())
    assert torch.isfinite(torch.tensor([1.0, float("nan"), float("-inf")]).npu()).tolist() == [True, False, False]


@pytest.mark.parametrize("triangular", (False, True))
def test_masked_softmax(triangular: bool) -> None:
    import torch_npu

    x, grad, mask = torch.randn(2, 3, 4, 4).half(), torch.randn(2, 3, 4, 4).half(), torch.rand(2, 1, 4, 4) > 0.7
    wide = x.double().requires_grad_()
    hidden = torch.ones(4, 4, dtype=torch.bool).triu(1) if triangular else mask
    expected = (wide * 0.3).masked_fill(hidden, -10000).softmax(-1)
    expected.backward(grad.double())
    given = x.npu().requires_grad_()
    found = torch_npu.npu_scaled_masked_softmax(given, mask.npu(), 0.3, triangular)
    found.backward(grad.npu())
    assert given.grad is not None and wide.grad is not None
    assert_close(found.detach(), expected.detach())
    assert_close(given.grad, wide.grad)
