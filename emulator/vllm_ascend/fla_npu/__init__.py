# SPDX-License-Identifier: Apache-2.0
"""Stands in for fla_npu and its modules, of which vllm-ascend 0.30 imports linear attention's kernels.

Names have no body; each is an error when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"emulator: fla_npu's {name} has no stand-in")

    return missing
