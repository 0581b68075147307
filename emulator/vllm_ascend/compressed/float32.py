# SPDX-License-Identifier: Apache-2.0
"""Lets DeepSeek-V4 run in float32, in which tokens can be compared: vllm-ascend takes its activations for
bfloat16 where it mixes an indexer's rows and where it lays out the cache of compressed keys."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate_activation(x: Tensor, hadamard: Tensor) -> Tensor:
    """Returns x times the matrix of ones and minus ones, scaled to keep lengths, in the type of x."""
    scale: float = x.shape[-1] ** -0.5
    return F.linear(x, hadamard.to(x.dtype)) * scale


def hadamard_linear(x: Tensor, hadamard: Tensor) -> tuple[Tensor, torch.Size, int]:
    """Returns the same of rows, not scaled, with the shape and size of the last dimension that x had."""
    size = x.shape[-1]
    return F.linear(x.reshape(-1, size), hadamard.to(x.dtype)), x.shape, size


def cache_dtype(name: str, model_config: Any) -> torch.dtype:
    """Returns bfloat16, the type that its cache has on an A2 and an A3."""
    return torch.bfloat16
