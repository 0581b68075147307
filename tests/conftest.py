# SPDX-License-Identifier: Apache-2.0
"""Shares fixtures. Ranks are forked from this process, so it must never start OpenMP threads."""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ["emulator.pytest_plugin"]  # tests marked npu and emulator


@pytest.fixture(scope="session")
def tiny_model() -> str:
    """Returns the trained DeepSeek-V3 of a few million parameters that the engine tests serve."""
    model = ROOT / "tests" / "assets" / "tiny-deepseek"
    if override := os.environ.get("TINY_MODEL"):
        model = Path(override)
    assert (model / "model.safetensors").is_file(), f"{model} is missing: run scripts/train_tiny_model.py"
    return str(model)


@pytest.fixture(scope="session")
def vllm_preloaded() -> None:
    """Imports vLLM once in this process (some ten seconds); every rank is a fork of it."""
    from vllm_ascend_ext.tools.preload import preload

    preload()


def pytest_configure() -> None:
    """Restores SIGINT: a shell that starts pytest in the background lets it ignore SIGINT, and so the programs
    that it runs, some of which are to be interrupted."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what needs a device this machine does not have, saying so; engines run last.

    Where there are NPUs they run first: ranks are forked, which must come before this process uses a device.
    """
    import torch

    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this machine"))
    first = hasattr(torch, "npu")
    items.sort(key=lambda item: (item.get_closest_marker("engine") is not None) != first)
