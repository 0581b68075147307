# SPDX-License-Identifier: Apache-2.0
"""Implements `Device` for an NVIDIA GPU through torch.cuda."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch

from vllm_ascend_ext.device.base import Capabilities, Device, Event, NativeEvent, Stream


class CudaDevice(Device):
    """Represents GPU `index`.

    Raises:
        RuntimeError: this process sees no such GPU.
    """

    collective_backend = "nccl"

    def __init__(self, index: int = 0) -> None:
        num_devices = torch.cuda.device_count()
        if not 0 <= index < num_devices:
            raise RuntimeError(f"cuda:{index}: torch {torch.__version__} sees {num_devices} CUDA devices")
        super().__init__(torch.device("cuda", index))

    @property
    def capabilities(self) -> Capabilities:
        """Returns the capabilities of the GPU."""
        major, minor = torch.cuda.get_device_capability(self.device)
        return Capabilities(
            side_streams=True,
            graph_capture=True,
            pinned_memory=True,
            device_collectives=torch.distributed.is_backend_available("nccl"),
            description=f"{torch.cuda.get_device_name(self.device)}, compute capability {major}.{minor}",
        )

    def bind_thread(self) -> None:
        """Makes this GPU the current device of the calling thread."""
        torch.cuda.set_device(self.device)

    def keep_for(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Lets the allocator reuse the memory of `tensor`, once freed, only after `stream` has passed the free."""
        tensor.record_stream(cast(torch.Stream, stream))

    def event(self) -> Event:
        """Makes an event over a ``torch.cuda.Event``."""
        return NativeEvent(torch.cuda.Event())  # type: ignore[no-untyped-call]

    def pinned_empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Allocates page-locked host memory."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def is_capturing(self) -> bool:
        """Returns whether the current CUDA stream is being captured into a graph."""
        return bool(torch.cuda.is_current_stream_capturing())

    def current_stream(self) -> Stream:
        """Returns the ``torch.cuda.Stream`` that the calling thread submits work to."""
        return torch.cuda.current_stream(self.device)

    def _new_stream(self, name: str) -> Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def _stream_context(self, stream: Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(cast(torch.cuda.Stream, stream))
