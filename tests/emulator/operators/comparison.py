# SPDX-License-Identifier: Apache-2.0
"""Compares the results of fused and expert operators with the CPU's."""

from __future__ import annotations

import torch


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares `actual` on any device with `expected` on the CPU, which may be of a wider dtype."""
    tolerance = 1e-5 if actual.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(actual.cpu(), expected.to(actual.dtype), rtol=tolerance, atol=tolerance)
