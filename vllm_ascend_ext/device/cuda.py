# SPDX-License-Identifier: Apache-2.0
"""An NVIDIA GPU through torch.cuda."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch

from vllm_ascend_ext.device.base import Capabilities, Device, Event, NativeEvent, Stream


class CudaDevice(Device):
    """GPU `index`.

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
        """See `Device.capabilities`."""
        major, minor = torch.cuda.get_device_capability(self.device)
        return Capabilities(
            side_streams=True,
            graph_capture=True,
            pinned_memory=True,
            device_collectives=torch.distributed.is_backend_available("nccl"),
            description=f"{torch.cuda.get_device_name(self.device)}, compute capability {major}.{minor}",
        )

    def bind_thread(self) -> None:
        """See `Device.bind_thread`."""
        torch.cuda.set_device(self.device)

    def keep_for(self, tensor: torch.Tensor, stream: Stream) -> None:
        """See `Device.keep_for`."""
        tensor.record_stream(cast(torch.Stream, stream))

    def event(self) -> Event:
        """See `Device.event`."""
        return NativeEvent(torch.cuda.Event())  # type: ignore[no-untyped-call]

    def pinned_empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See `Device.pinned_empty`."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def is_capturing(self) -> bool:
        """See `Device.is_capturing`."""
        return bool(torch.cuda.is_current_stream_capturing())

    def current_stream(self) -> Stream:
        """The ``torch.cuda.Stream`` that the calling thread submits work to."""
        return torch.cuda.current_stream(self.device)

    def _new_stream(self, name: str) -> Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def _stream_context(self, stream: Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(cast(torch.cuda.Stream, stream))
