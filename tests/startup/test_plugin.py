# SPDX-License-Identifier: Apache-2.0
"""The entry points: the platform is chosen only where it belongs, registering twice changes nothing."""

from __future__ import annotations

import importlib.util

import pytest

from vllm_ascend_ext.integration.startup import plugin

CPU_PLATFORM = "vllm_ascend_ext.integration.cpu_platform.platform.TorchCpuPlatform"


@pytest.mark.parametrize("package", ["vllm_ascend", "torch_npu"])
def test_the_platform_leaves_the_slot_to_vllm_ascend(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        plugin.importlib.util, "find_spec", lambda name: object() if name == package else real(name)
    )
    assert plugin.cpu_platform() is None


def test_the_platform_leaves_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plugin.cpu_platform() is None


def test_the_platform_is_chosen_on_a_bare_cpu() -> None:
    import torch

    if torch.cuda.is_available() or importlib.util.find_spec("vllm_ascend"):
        pytest.skip("this machine has an accelerator")
    assert plugin.cpu_platform() == CPU_PLATFORM


@pytest.mark.engine
def test_registering_again_changes_nothing(vllm_preloaded: None) -> None:
    from vllm.platforms import current_platform

    plugin.register()
    hook = type(current_platform).check_and_update_config
    plugin.register()
    assert type(current_platform).check_and_update_config is hook
