# SPDX-License-Identifier: Apache-2.0
"""Brings streams and events to a machine without an accelerator: every operation has finished when it returns.

vLLM's runner is written for accelerator streams. On the CPU vLLM puts placeholders in torch's namespace
(https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/worker/cpu/shm.py and ``_torch_cuda_wrapper`` in
https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/worker/cpu_model_runner.py) that lack most methods,
which stops asynchronous scheduling (``Stream.wait_stream``) and EPLB (``Event.elapsed_time``). The classes
here have the methods of ``torch.cuda.Stream`` and ``torch.cuda.Event``; order holds trivially because the CPU
runs everything where it is called.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from vllm_ascend_ext.integration.upstream.seams.change import stand_in

CPU = torch.device("cpu")


class HostEvent:
    """Marks a point in time of this process; stands in for ``torch.Event`` and ``torch.cuda.Event``.

    Accepts the constructor arguments of both. ``elapsed_time`` has torch's rules: both events recorded, both
    created with ``enable_timing=True``, milliseconds.
    """

    device = CPU

    def __init__(
        self,
        device: object = None,
        *,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> None:
        if interprocess:
            raise NotImplementedError("HostEvent: an event shared between processes")
        self.enable_timing = enable_timing
        self._seconds: float | None = None

    def record(self, stream: HostStream | None = None) -> None:
        self._seconds = time.perf_counter()

    def wait(self, stream: HostStream | None = None) -> None:
        """Does nothing: what came before has finished."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Does nothing: what came before has finished."""

    def elapsed_time(self, end_event: HostEvent) -> float:
        """Returns the milliseconds from this event to ``end_event``."""
        if not (self.enable_timing and end_event.enable_timing):
            raise RuntimeError("Both events must be created with enable_timing=True")
        if self._seconds is None or end_event._seconds is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time")
        return (end_event._seconds - self._seconds) * 1000


_stream_ids = itertools.count()


class HostStream:
    """Runs work at once in the calling thread, as an in-order queue; stands in for ``torch.cuda.Stream``.

    Used as a context manager it is the thread's current stream inside the block.
    """

    device = CPU
    device_index = -1

    def __init__(self, device: object = None, priority: int = 0, **kwargs: object) -> None:
        self.priority = priority
        self.stream_id = self.cuda_stream = next(_stream_ids)
        self._outer = threading.local()

    def wait_stream(self, stream: HostStream) -> None:
        """Does nothing: the other stream has finished."""

    def wait_event(self, event: HostEvent) -> None:
        event.wait(self)

    def record_event(self, event: HostEvent | None = None) -> HostEvent:
        event = HostEvent() if event is None else event
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Does nothing: all work has finished."""

    def __enter__(self) -> HostStream:
        stack: list[HostStream] = self._outer.__dict__.setdefault("stack", [])
        stack.append(current_stream())
        set_stream(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_stream(self._outer.stack.pop())

    def __repr__(self) -> str:
        return f"HostStream({self.stream_id})"


_default_stream = HostStream()
_current = threading.local()


def default_stream(device: object = None) -> HostStream:
    """Returns the stream that is current where none was set."""
    return _default_stream


def current_stream(device: object = None) -> HostStream:
    """Returns the calling thread's current stream."""
    stream: HostStream = getattr(_current, "stream", _default_stream)
    return stream


def set_stream(stream: HostStream | None) -> None:
    """Makes ``stream`` the calling thread's current stream; None changes nothing, as in torch."""
    if stream is not None:
        _current.stream = stream


def stream_context(stream: HostStream | None) -> contextlib.AbstractContextManager[HostStream | None]:
    """Stands in for ``torch.cuda.stream``, the current stream of a block; None changes nothing."""
    return contextlib.nullcontext() if stream is None else stream


def synchronize(device: object = None) -> None:
    """Does nothing: all work has finished."""


def empty_cache() -> None:
    """Does nothing: the CPU allocator keeps no cache of its own."""


def host_attributes() -> Iterator[tuple[Any, str, object]]:
    """Lists (owner, attribute, stand-in) of everything `install_host_streams` sets."""
    yield torch, "Event", HostEvent
    yield torch.cuda, "Event", HostEvent
    yield torch.cuda, "Stream", HostStream
    for owner in (torch.cuda, torch.accelerator):
        yield owner, "current_stream", current_stream
        yield owner, "set_stream", set_stream
        yield owner, "synchronize", synchronize
        yield owner, "empty_cache", empty_cache
    yield torch.cuda, "default_stream", default_stream
    yield torch.cuda, "stream", stream_context


def install_host_streams() -> None:
    """Makes torch's stream and event names refer to the classes of this module; repeatable.

    Importing ``vllm.v1.worker.cpu_worker`` and constructing a ``CPUModelRunner`` set some of the same names:
    call this afterwards too. Raises RuntimeError on a machine with CUDA.
    """
    if torch.cuda.is_available():
        raise RuntimeError("Host streams would replace working CUDA streams: this machine has CUDA")
    for owner, name, value in host_attributes():
        stand_in(owner, name, value)
