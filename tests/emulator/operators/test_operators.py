# SPDX-License-Identifier: Apache-2.0
"""The emulated operators through the real torch_npu: equal to the CPU's, bitwise for integers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.emulator.operators.operator_cases import ALL, Case

pytestmark = pytest.mark.emulator


def tensors(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors ``[4, 6]``, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.bool:
        return tuple(torch.rand(2, 4, 6, generator=generator).gt(0.5))
    if dtype.is_floating_point:
        return tuple(torch.randn(2, 4, 6, generator=generator).to(dtype))
    return tuple(torch.randint(-20, 20, (2, 4, 6), generator=generator, dtype=dtype))


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [x for part in result for x in flat(part)]


def assert_same(actual: Any, expected: Any) -> None:
    """Integers bitwise; floats up to the order of a sum."""
    pairs = list(zip(flat(actual), flat(expected), strict=True))
    for number, (ours, theirs) in enumerate(pairs):
        tolerance = 0.0
        if theirs.dtype.is_floating_point:
            tolerance = 1e-5 if theirs.dtype == torch.float32 else 2e-2
        torch.testing.assert_close(
            ours.cpu(), theirs, rtol=tolerance, atol=tolerance, equal_nan=True,
            msg=lambda message, number=number: f"result {number} of {len(pairs)}: {message}",
        )  # fmt: skip


def run_program(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what a process cannot recover from."""
    command = [sys.executable, "-c", "import torch, torch_npu\n" + program]
    environment = {**os.environ, "EMULATOR_RACE_LOG": "", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("case", "dtype"), [case[1:] for case in ALL], ids=[case[0] for case in ALL])
def test_equal_to_the_cpu(case: Case, dtype: torch.dtype) -> None:
    x, y = tensors(dtype)
    assert_same(case(x.npu(), y.npu()), case(x, y))


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64, torch.float32))
def test_histogram(dtype: torch.dtype) -> None:
    """As vllm-ascend counts tokens by expert; the CPU has no histogram of integers."""
    values = torch.tensor([0, 3, 3, 7, 8, -1, 5], dtype=dtype)
    counts = torch.histc(values.npu(), bins=8, min=0, max=8)
    assert counts.dtype == dtype
    assert counts.tolist() == [1, 0, 0, 2, 0, 1, 0, 2]  # the last bin holds its upper end; -1 lies outside


# Training


def gradients(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    hidden = F.layer_norm(F.silu(x @ weight.t()), (4,))
    rows = F.embedding(torch.tensor([0, 3, 3, 1], device=x.device), weight)
    parts = (hidden.tanh(), hidden.sigmoid(), F.gelu(hidden), hidden.relu(), rows.pow(2), hidden.softmax(-1).log())
    loss = F.cross_entropy(hidden, torch.tensor([0, 1, 2, 3], device=x.device))
    (loss + sum(part.mean() for part in parts)).backward()
    return x.grad, weight.grad


def test_gradients() -> None:
    x, weight = tensors(torch.float32)
    assert_same(gradients(x.npu(), weight.npu()), gradients(x, weight))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=False),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
        lambda parameters: torch.optim.Adam(parameters, lr=0.1, foreach=True, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=False),
    ],
    ids=("adamw", "adamw of lists", "adam amsgrad of lists", "sgd of lists", "sgd"),
)
def test_optimizer(optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> None:
    def trained(x: torch.Tensor) -> torch.Tensor:
        parameter = torch.nn.Parameter(x.clone())
        steps = optimizer([parameter])
        for _ in range(3):
            parameter.pow(3).sum().backward()
            steps.step()
            steps.zero_grad()
        return parameter.data

    x, _ = tensors(torch.float32)
    assert_same(trained(x.npu()), trained(x))


# Random numbers

RANDOM: dict[str, tuple[Callable[[], torch.Tensor], float]] = {  # with their mean
    "rand": (lambda: torch.rand(4000, device="npu"), 0.5),
    "randn": (lambda: torch.randn(4000, device="npu"), 0),
    "uniform": (lambda: torch.empty(4000, device="npu").uniform_(2, 4), 3),
    "normal": (lambda: torch.empty(4000, device="npu").normal_(1, 0.5), 1),
    "exponential": (lambda: torch.empty(4000, device="npu").exponential_(2), 0.5),
    "bernoulli": (lambda: torch.empty(4000, device="npu").bernoulli_(0.3), 0.3),
    "randint": (lambda: torch.randint(0, 3, (4000,), device="npu"), 1),
    "randperm": (lambda: torch.randperm(4000, device="npu"), 1999.5),
    "multinomial": (lambda: torch.multinomial(torch.tensor([1.0, 3], device="npu"), 4000, replacement=True), 0.75),
    "dropout": (lambda: F.dropout(torch.ones(4000, device="npu"), 0.25), 1),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_follow_the_seed(name: str) -> None:
    draw, mean = RANDOM[name]
    torch.npu.manual_seed(7)
    first, second = draw().cpu(), draw().cpu()
    torch.npu.manual_seed(7)
    assert torch.equal(draw().cpu(), first)
    assert not torch.equal(first, second)
    assert first.float().mean().item() == pytest.approx(mean, rel=0.1, abs=0.1)


def test_captured_random_numbers_are_drawn_anew() -> None:
    values = torch.zeros(64, device="npu")
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        values.uniform_()
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn.append(values.cpu())
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


# Failures


def test_missing_operator_is_named() -> None:
    layer = torch.nn.LSTM(4, 4).npu()
    with pytest.raises(RuntimeError, match="not emulated: operator DynamicRNN"):
        layer(torch.ones(2, 1, 4, device="npu"))
    assert (torch.ones(3, device="npu") + 1).tolist() == [2, 2, 2]


def test_missing_operator_without_a_fallback_is_named() -> None:
    import torch_npu

    with pytest.raises(RuntimeError, match="aclnnMoeReRouting"):
        torch_npu.npu_moe_re_routing(torch.ones(4, 8).npu(), torch.ones(2, 2, dtype=torch.int32).npu())


@pytest.mark.parametrize("queue", ("0", "1", "2"))
def test_failing_operator_is_named_and_fatal(queue: str) -> None:
    program = "torch.ones(3).npu().index_select(0, torch.tensor([9]).npu())\ntorch.npu.synchronize()"
    result = run_program(program, TASK_QUEUE_ENABLE=queue)
    assert result.returncode != 0
    assert "aclnnIndexSelect" in result.stderr
    assert "out of" in result.stderr


@pytest.mark.parametrize("queue", ("1", "2"))
def test_results_with_the_task_queue(queue: str) -> None:
    program = """
x = torch.arange(24, dtype=torch.float32).view(4, 6)
y = x.npu()
for _ in range(50):
    x, y = (x @ x.t() @ x).softmax(-1) + x.flip(0), (y @ y.t() @ y).softmax(-1) + y.flip(0)
assert torch.allclose(x, y.cpu(), rtol=1e-5, atol=1e-5), (x, y)
assert torch.equal(x.nonzero(), y.nonzero().cpu())
assert torch.equal(x[x > 9], y[y > 9].cpu())
"""
    result = run_program(program, TASK_QUEUE_ENABLE=queue)
    assert result.returncode == 0, result.stderr


def test_operator_that_decides_its_shape_cannot_be_captured() -> None:
    program = """
x = torch.ones(4, device='npu')
torch.npu.synchronize()
with torch.npu.graph(torch.npu.NPUGraph()):
    x.nonzero()
"""
    result = run_program(program)
    assert result.returncode != 0
    assert "aclnnNonzero waits for its result, so it cannot be captured" in result.stderr
