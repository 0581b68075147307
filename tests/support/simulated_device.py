# SPDX-License-Identifier: Apache-2.0
"""Simulates a device whose streams are threads, so that work is truly asynchronous and a missing wait gives wrong
values.

Its memory is host memory allocated with ``device=SimulatedDevice.device``. Inside ``with device.launching():`` the
in-place operators on such memory are queued on the current stream; an operator that returns values waits for the
stream first, as a copy to pageable memory does on a device.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_ascend_ext.device import Capabilities, DeadlineError, Device

_DEVICE = torch.device("cpu", 1)  # torch allocates ordinary memory for it, and tells us that it was asked for


class SimulatedStream:
    """Works off a queue in a thread, each task after a delay of up to `delay_s`."""

    def __init__(self, name: str, delay_s: float, seed: int) -> None:
        self.name, self.delay_s = name, delay_s
        self.open = threading.Event()
        self.open.set()
        self._random = random.Random(f"{seed} {name}")
        self._tasks: queue.Queue[Callable[[], None]] = queue.Queue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, task: Callable[[], Any]) -> None:
        self._tasks.put(task)

    def query(self) -> bool:
        return self._tasks.unfinished_tasks == 0

    def synchronize(self) -> None:
        self._tasks.join()

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            self.open.wait()
            if self.delay_s:
                time.sleep(self._random.random() * self.delay_s)
            task()
            self._tasks.task_done()


class SimulatedEvent:
    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._reached: threading.Event | None = None

    def record(self, stream: SimulatedStream | None = None) -> None:
        self._reached = reached = threading.Event()
        (stream or self._device.current_stream()).submit(reached.set)

    def query(self) -> bool:
        return self._reached is None or self._reached.is_set()

    def wait(self, stream: SimulatedStream | None = None) -> None:
        if self._reached is not None:
            (stream or self._device.current_stream()).submit(self._reached.wait)

    def synchronize(self, timeout_s: float) -> None:
        if self._reached is not None and not self._reached.wait(timeout_s):
            raise DeadlineError(f"not reached within {timeout_s:g} s")


class SimulatedDevice(Device):
    """Delays: the longest of each task, by the name of the stream ("main" for the default one)."""

    device = _DEVICE

    def __init__(self, seed: int = 0, delays_s: dict[str, float] | None = None) -> None:
        super().__init__(_DEVICE)
        self._seed, self._delays_s = seed, delays_s or {}
        self._main = self._new_stream("main")
        self._thread = threading.local()
        self.memory: dict[int, int] = {}  # begin → end of the storages

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(True, False, True, True, "threads as streams")

    def event(self) -> Any:
        return SimulatedEvent(self)

    def pinned_empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.full(tuple(shape), -(2**30), dtype=dtype)  # whoever reads too early sees it

    def is_capturing(self) -> bool:
        return False

    def current_stream(self) -> SimulatedStream:
        return getattr(self._thread, "stream", self._main)

    def bind_thread(self) -> None:
        pass

    def keep_for(self, tensor: torch.Tensor, stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        for stream in (self._main, *self._streams.values()):
            stream.synchronize()

    def launching(self) -> AbstractContextManager[Any]:
        return _Launching(self)

    def _new_stream(self, name: str) -> SimulatedStream:
        return SimulatedStream(name, self._delays_s.get(name, 0.0), self._seed)

    @contextmanager
    def _stream_context(self, stream: Any) -> Iterator[None]:
        before = self.current_stream()
        self._thread.stream = stream
        try:
            yield
        finally:
            self._thread.stream = before


class _Launching(TorchDispatchMode):
    def __init__(self, device: SimulatedDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == _DEVICE:
            out = func(*args, **kwargs)
            self._device.memory[out.untyped_storage().data_ptr()] = 1
            return out
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if not any(tensor.untyped_storage().data_ptr() in self._device.memory for tensor in tensors):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._device.current_stream().submit(lambda: func(*args, **kwargs))
            return args[0] if func._schema.returns else None
        if not any(returned.alias_info for returned in func._schema.returns):
            self._device.current_stream().synchronize()
        return func(*args, **kwargs)


class QueuedCollectives:
    """Collectives in the order of the current stream of a simulated device, as NCCL's and HCCL's are."""

    def __init__(
        self, device: SimulatedDevice, all_reduce_: Callable[[torch.Tensor], None], num_ranks: int
    ) -> None:
        self.num_ranks = num_ranks
        self._device, self._all_reduce_ = device, all_reduce_

    def all_reduce_(self, x: torch.Tensor) -> None:
        self._device.current_stream().submit(lambda: self._all_reduce_(x))
