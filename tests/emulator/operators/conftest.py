# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def with_private_formats() -> Iterator[None]:
    """As vllm-ascend sets it; otherwise a cast to a private format does nothing."""
    import torch_npu  # noqa: F401

    torch.npu.config.allow_internal_format = True
    yield
    torch.npu.config.allow_internal_format = False
