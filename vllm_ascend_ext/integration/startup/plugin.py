# SPDX-License-Identifier: Apache-2.0
"""The two entry points that vLLM calls. Both are re-entrant, import lazily and do next to nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util


def cpu_platform() -> str | None:
    """`vllm.platform_plugins` entry: our CPU platform on a machine with no NPU and no GPU, else None.

    vLLM refuses two out-of-tree platforms, so wherever vllm-ascend is installed it owns the slot. A vLLM built
    for the CPU ("0.23.0+cpu") brings a platform of its own, which stays.
    """
    if any(importlib.util.find_spec(name) for name in ("vllm_ascend", "torch_npu")):
        return None
    if "cpu" in importlib.metadata.version("vllm"):
        return None
    import torch

    if torch.cuda.is_available() or torch.xpu.is_available():
        return None
    return "vllm_ascend_ext.integration.cpu_platform.platform.TorchCpuPlatform"


def register() -> None:
    """`vllm.general_plugins` entry, run in the API server, the engine core and every worker."""
    from vllm.platforms import current_platform

    from vllm_ascend_ext.integration.startup import activation

    activation.activate(current_platform)
