# SPDX-License-Identifier: Apache-2.0
"""Compares a kernel with a loop transcription of its Triton source, including the memory it must not touch."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_ascend_ext.integration.cpu_platform.grid_kernel import GridKernel

UNTOUCHED = -77  # every output buffer starts with it


def assert_same_writes(
    kernel: GridKernel, reference: Callable[..., None], grid: tuple[int, ...], *args: Any, **constants: Any
) -> None:
    """Runs both on copies of the arguments; every tensor must be equal afterwards, bit for bit."""

    def clones() -> list[Any]:
        return [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]

    actual, expected = clones(), clones()
    kernel[grid](*actual, **constants)
    reference(grid, *expected, **constants)
    for index, (have, want) in enumerate(zip(actual, expected, strict=True)):
        if isinstance(want, Tensor):
            assert have.tolist() == want.tolist(), f"argument {index}"


def cumulative(lengths: list[int], dtype: torch.dtype) -> Tensor:
    return torch.tensor(lengths).cumsum(0).to(dtype)


def upstream_source(path: str) -> ast.Module:
    """Parses a file of the installed vLLM without importing it."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    return ast.parse((Path(spec.origin).parent / path).read_text())


def upstream_parameters(path: str, function: str) -> list[str]:
    for node in ast.walk(upstream_source(path)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return [argument.arg for argument in node.args.args]
    raise AssertionError(f"{path} has no {function}")
