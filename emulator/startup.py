# SPDX-License-Identifier: Apache-2.0
"""Runs first in every Python process of .venv-npu (a .pth file there calls it). Standard library only.

On the emulator: vllm-ascend finds the stand-ins for what exists only as NPU code, and the race checker learns of
torch's memory blocks as soon as torch_npu is there. Without it, and without a real CANN: torch does not load
torch_npu by itself, and importing it says what to do.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from . import after_import

LIBRARIES = "EMULATOR_LIB"  # set by the launcher: the folder of the libraries
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"  # torch loads torch_npu by itself if this is "1" or unset
AUTOLOAD_OFF = "no emulator"  # our own value, so that the launcher can take it back
MODULE = "torch_npu"


def _enable_block_history(_: ModuleType) -> None:
    from . import races

    races.enable_block_history()


class _Refusal(importlib.abc.Loader):
    """Stands in place of torch_npu where nothing can run it."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        root = os.path.dirname(sys.prefix)
        raise ImportError(
            "torch_npu needs Ascend libraries, and this process has neither CANN's nor the emulator's; "
            f"start it in {root} with: python -m emulator run -- COMMAND",
            name=MODULE,
        )


class _TorchNpuFinder(importlib.abc.MetaPathFinder):
    def __init__(self, emulated: bool) -> None:
        self._emulated = emulated

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = after_import.find_spec(fullname, path, target, _enable_block_history)
        if spec is not None and spec.loader is not None and not self._emulated:
            spec.loader = _Refusal()
        return spec


def prepare() -> None:
    """Installs what this process needs: the stand-ins on the emulator, else a refusal where there is no real
    CANN."""
    if os.environ.get(LIBRARIES):
        from .vllm_ascend import standins

        standins.install()
        sys.meta_path.insert(0, _TorchNpuFinder(emulated=True))
    elif not os.environ.get("ASCEND_HOME_PATH"):
        os.environ.setdefault(AUTOLOAD, AUTOLOAD_OFF)
        sys.meta_path.insert(0, _TorchNpuFinder(emulated=False))
