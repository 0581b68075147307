# SPDX-License-Identifier: Apache-2.0
"""Finds the device on which a runner of vLLM computes."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.device import Device, create_device


def device_of(runner: Any) -> Device:
    """Returns the device of a runner's model. A runner on the CPU names no index, which means the first."""
    index = runner.device.index
    return create_device(runner.device.type, 0 if index is None else index)
