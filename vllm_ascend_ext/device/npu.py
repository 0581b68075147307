# SPDX-License-Identifier: Apache-2.0
"""Implements `Device` for an Ascend NPU through torch_npu, which adds ``torch.npu`` when it is imported."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from vllm_ascend_ext.device.base import Capabilities, Device, Event, NativeEvent, Stream


def _torch_npu() -> Any:
    """Imports torch_npu and returns the ``torch.npu`` module.

    Raises:
        ImportError: torch_npu, or the CANN libraries that it loads, cannot be imported.
    """
    try:
        return importlib.import_module("torch_npu").npu
    except ImportError as error:
        raise ImportError(
            "an NPU needs torch_npu: install CANN, source its set_env.sh, then "
            f"`pip install 'vllm-ascend-ext[npu]'` ({error})"
        ) from error


def npu_stream_switch(target_stream: Any, *, enabled: bool = True) -> AbstractContextManager[Any]:
    """Makes `target_stream` (a ``torch.npu.Stream``) current inside the block; nothing when not `enabled`.

    It orders nothing: the caller records and waits for events. Same signature and meaning as
    ``vllm_ascend.utils.npu_stream_switch`` (vllm-ascend 0.23.0).

    Raises:
        ValueError: enabled, and `target_stream` is None.
        ImportError: enabled, and torch_npu cannot be imported.
    """
    if not enabled:
        return nullcontext()
    if target_stream is None:
        raise ValueError("npu_stream_switch is enabled, but target_stream is None")
    context: AbstractContextManager[Any] = _torch_npu().stream(target_stream)
    return context


class NpuDevice(Device):
    """Represents NPU `index`.

    Raises:
        ImportError: torch_npu cannot be imported.
        RuntimeError: this process sees no such NPU.
    """

    collective_backend = "hccl"

    def __init__(self, index: int = 0) -> None:
        self._npu = _torch_npu()
        num_devices = self._npu.device_count()
        if not 0 <= index < num_devices:
            raise RuntimeError(f"npu:{index}: torch_npu sees {num_devices} NPUs")
        super().__init__(torch.device("npu", index))

    @property
    def capabilities(self) -> Capabilities:
        """Returns the capabilities of the NPU."""
        return Capabilities(
            side_streams=True,
            graph_capture=True,
            pinned_memory=True,
            device_collectives=torch.distributed.is_backend_available("hccl"),
            description=str(self._npu.get_device_name(self.device)),
        )

    def bind_thread(self) -> None:
        """Makes this NPU the current device of the calling thread."""
        self._npu.set_device(self.device)

    def keep_for(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Lets the allocator reuse the memory of `tensor`, once freed, only after `stream` has passed the free."""
        tensor.record_stream(cast(Any, stream))

    def event(self) -> Event:
        """Makes an event over a ``torch.npu.Event``."""
        return NativeEvent(self._npu.Event())

    def pinned_empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Allocates page-locked host memory."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def is_capturing(self) -> bool:
        """Returns whether the current NPU stream is being captured into a graph."""
        return bool(self._npu.is_current_stream_capturing())

    def current_stream(self) -> Stream:
        """Returns the ``torch.npu.Stream`` that the calling thread submits work to."""
        stream: Stream = self._npu.current_stream(self.device)
        return stream

    def _new_stream(self, name: str) -> Stream:
        stream: Stream = self._npu.Stream(device=self.device)
        return stream

    def _stream_context(self, stream: Stream) -> AbstractContextManager[Any]:
        return npu_stream_switch(stream)
