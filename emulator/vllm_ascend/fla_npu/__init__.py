# SPDX-License-Identifier: Apache-2.0
"""Stands in for fla_npu and its modules, of which vllm-ascend 0.30 imports linear attention's kernels.

Those of the gated delta net have bodies. Any other name is an error when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ..linear_attention import recurrent_gated_delta_rule
from .gated_delta import causal_conv1d_fn, causal_conv1d_update, chunk_gated_delta_rule_fwd

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "chunk_gated_delta_rule_fwd",
    "recurrent_gated_delta_rule",
]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"emulator: fla_npu's {name} has no stand-in")

    return missing
