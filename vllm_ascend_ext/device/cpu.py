# SPDX-License-Identifier: Apache-2.0
"""Implements the CPU as a device: streams are in-order and synchronous, events complete at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from vllm_ascend_ext.device.base import Capabilities, Device, Event, Stream


class CpuStream:
    """Names a stream: work runs in the calling thread, so that it has finished when the call returns."""

    def __init__(self, name: str) -> None:
        self.name = name

    def query(self) -> bool:
        """Returns True: all work has finished."""
        return True

    def __repr__(self) -> str:
        return f"CpuStream({self.name!r})"


class CpuEvent:
    """Stands for an event that is always reached."""

    def record(self, stream: Stream | None = None) -> None:
        """Does nothing: the work before the mark has finished."""

    def query(self) -> bool:
        """Returns True: all work has finished."""
        return True

    def wait(self, stream: Stream | None = None) -> None:
        """Does nothing: there is nothing to wait for."""

    def synchronize(self, timeout_s: float) -> None:
        """Returns at once; never raises."""


class CpuDevice(Device):
    """Represents the CPU. `current_stream` follows `stream_switch`, separately in every thread.

    Raises:
        ValueError: an index other than 0.
    """

    def __init__(self, index: int = 0) -> None:
        if index != 0:
            raise ValueError(f"cpu:{index}: there is one CPU device, cpu:0")
        super().__init__(torch.device("cpu"))
        self._main = CpuStream("main")
        self._thread = threading.local()

    @property
    def capabilities(self) -> Capabilities:
        """Returns the CPU's capabilities: no pinned memory, no graphs, no second stream."""
        return Capabilities(
            side_streams=False,
            graph_capture=False,
            pinned_memory=False,
            device_collectives=False,
            description=f"CPU, {torch.get_num_threads()} threads",
        )

    def bind_thread(self) -> None:
        """Does nothing: there is one device."""

    def keep_for(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Does nothing: a stream has finished when the call returns."""

    def event(self) -> Event:
        """Makes an event that is always reached."""
        return CpuEvent()

    def pinned_empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Allocates ordinary memory."""
        return torch.empty(tuple(shape), dtype=dtype)

    def is_capturing(self) -> bool:
        """Returns False: the CPU captures no graphs."""
        return False

    def current_stream(self) -> Stream:
        """Returns the stream that the calling thread has switched to."""
        stream: Stream = getattr(self._thread, "stream", self._main)
        return stream

    def _new_stream(self, name: str) -> Stream:
        return CpuStream(name)

    def _stream_context(self, stream: Stream) -> AbstractContextManager[None]:
        return self._switched(stream)

    @contextmanager
    def _switched(self, stream: Stream) -> Iterator[None]:
        before = self.current_stream()
        self._thread.stream = stream
        try:
            yield
        finally:
            self._thread.stream = before
