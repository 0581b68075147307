# SPDX-License-Identifier: Apache-2.0
"""Represents devices: one file each, one function that picks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from vllm_ascend_ext.device.base import Capabilities, DeadlineError, Device, Event, Stream

__all__ = ["Capabilities", "DeadlineError", "Device", "Event", "Stream", "create_device"]


def _cpu(index: int) -> Device:
    from vllm_ascend_ext.device.cpu import CpuDevice

    return CpuDevice(index)


def _cuda(index: int) -> Device:
    from vllm_ascend_ext.device.cuda import CudaDevice

    return CudaDevice(index)


def _npu(index: int) -> Device:
    from vllm_ascend_ext.device.npu import NpuDevice

    return NpuDevice(index)


_FACTORIES: Mapping[str, Callable[[int], Device]] = MappingProxyType({"cpu": _cpu, "cuda": _cuda, "npu": _npu})


def create_device(device_type: str, index: int = 0) -> Device:
    """Creates a new `Device`. Its streams are its own, so one process keeps one object for one device.

    Raises:
        ValueError: an unknown `device_type`.
        ImportError: the device's library cannot be imported.
        RuntimeError: this process sees no such device.
    """
    if device_type not in _FACTORIES:
        raise ValueError(f"unknown device type {device_type!r}; known: {', '.join(_FACTORIES)}")
    return _FACTORIES[device_type](index)
