# SPDX-License-Identifier: Apache-2.0
"""Defines what every device offers: side streams, events, pinned memory, and what it is capable of."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

_POLL_INTERVAL_S = 0.00005  # what a wait is longer than it must be, at most


class DeadlineError(TimeoutError):
    """Reports that a wait reached its deadline."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Lists what a device can do. Code outside ``device/`` asks here, never for the type of the device.

    Attributes:
        side_streams: streams run concurrently with the main one, so that events must order them.
        graph_capture: launches can be captured into a graph and replayed.
        pinned_memory: `Device.pinned_empty` is page-locked, so that copies from the device need not block.
        device_collectives: a collective library (HCCL, NCCL) works on device memory, in stream order.
        description: the device in words, for logs and reports.
    """

    side_streams: bool
    graph_capture: bool
    pinned_memory: bool
    device_collectives: bool
    description: str


class Stream(Protocol):
    """Describes the part of ``torch.cuda.Stream`` and ``torch.npu.Stream`` that this package uses.

    A `Device` hands out the native object, so that the framework's own functions accept it.
    """

    def query(self) -> bool:
        """Returns whether all work submitted so far has finished. Does not block."""
        ...


class Event(Protocol):
    """Marks a point in a stream. An event that was never recorded counts as reached, as in CUDA and in ACL."""

    def record(self, stream: Stream | None = None) -> None:
        """Marks the present end of `stream` (default: the current stream)."""
        ...

    def query(self) -> bool:
        """Returns whether the work before the mark has finished. Does not block."""
        ...

    def wait(self, stream: Stream | None = None) -> None:
        """Makes later work of `stream` (default: the current stream) wait for the mark. Does not block."""
        ...

    def synchronize(self, timeout_s: float) -> None:
        """Blocks the calling thread until the mark is reached.

        Raises:
            DeadlineError: it was not reached within `timeout_s` seconds.
        """
        ...


class NativeEvent:
    """Implements `Event` over a ``torch.cuda.Event`` or ``torch.npu.Event``, whose synchronize() has no
    deadline."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def record(self, stream: Stream | None = None) -> None:
        """Marks the present end of `stream` (default: the current stream)."""
        if stream is None:
            self._event.record()
        else:
            self._event.record(stream)

    def query(self) -> bool:
        """Returns whether the work before the mark has finished. Does not block."""
        return bool(self._event.query())

    def wait(self, stream: Stream | None = None) -> None:
        """Makes later work of `stream` (default: the current stream) wait for the mark. Does not block."""
        if stream is None:
            self._event.wait()
        else:
            self._event.wait(stream)

    def synchronize(self, timeout_s: float) -> None:
        """Blocks the calling thread until the mark is reached, by asking again and again."""
        deadline = time.monotonic() + timeout_s
        while not self.query():
            if time.monotonic() >= deadline:
                raise DeadlineError(f"the event was not reached within {timeout_s:g} s")
            time.sleep(_POLL_INTERVAL_S)


class Device(ABC):
    """Represents one device of this process. Its side streams live as long as the object.

    Args:
        device: the torch device, with its index.

    Attributes:
        collective_backend: torch's name of the library for collectives on this device's memory.
    """

    collective_backend = "gloo"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()

    def stream(self, name: str) -> Stream:
        """Returns the side stream called `name`: made on the first call, the same object ever after."""
        with self._lock:
            if name not in self._streams:
                self._streams[name] = self._new_stream(name)
            return self._streams[name]

    def stream_switch(self, stream: Stream, *, enabled: bool = True) -> AbstractContextManager[Any]:
        """Makes `stream` current inside the ``with`` block; does nothing when not `enabled`.

        It orders nothing: the caller records and waits for events.
        """
        return self._stream_context(stream) if enabled else nullcontext()

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Returns what this device can do."""

    @abstractmethod
    def event(self) -> Event:
        """Makes a new event."""

    @abstractmethod
    def pinned_empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Allocates uninitialised host memory, page-locked where `capabilities.pinned_memory`."""

    @abstractmethod
    def is_capturing(self) -> bool:
        """Returns whether the current stream is being captured into a graph."""

    @abstractmethod
    def current_stream(self) -> Stream:
        """Returns the stream that the calling thread submits work to."""

    @abstractmethod
    def bind_thread(self) -> None:
        """Makes this device the calling thread's, for a thread that queries events of it."""

    @abstractmethod
    def keep_for(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Lets the allocator reuse the memory of `tensor`, once freed, only after `stream` has passed the free.

        For memory of the device that a side stream reads or writes: its allocator knows only of the stream that
        the tensor was made on.
        """

    @abstractmethod
    def _new_stream(self, name: str) -> Stream: ...

    @abstractmethod
    def _stream_context(self, stream: Stream) -> AbstractContextManager[Any]: ...
