# SPDX-License-Identifier: Apache-2.0
"""Defines the two entry points that vLLM calls. Both may be called again, import lazily and do next to nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util


def cpu_platform() -> str | None:
    """Returns the class of our CPU platform on a machine with no NPU and no GPU, else None.

    vLLM calls this entry of the group `vllm.platform_plugins`. It refuses two platforms from outside, so that we
    offer none where vllm-ascend is installed, which has its own, unless VLLM_PLUGINS names ours alone. A vLLM
    built for the CPU ("0.23.0+cpu") brings a platform, too, which stays.
    """
    from vllm import envs

    is_alone = envs.VLLM_PLUGINS == ["ascend_ext_cpu"]
    if not is_alone and any(importlib.util.find_spec(name) for name in ("vllm_ascend", "torch_npu")):
        return None
    if "cpu" in importlib.metadata.version("vllm"):
        return None
    import torch

    if torch.cuda.is_available() or torch.xpu.is_available():
        return None
    return "vllm_ascend_ext.integration.cpu_platform.platform.TorchCpuPlatform"


def register() -> None:
    """Activates the plug-in in a process.

    vLLM calls this entry of the group `vllm.general_plugins` in the API server, the engine core and every worker.
    """
    from vllm.platforms import current_platform

    from vllm_ascend_ext.integration.startup import activation

    activation.activate(current_platform)
