# SPDX-License-Identifier: Apache-2.0
"""Chooses between the ring's inner loops in C++ (csrc_channel/, an extension module) and those in Python."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vllm_ascend_ext.mtp_output.errors import FrameError
from vllm_ascend_ext.mtp_output.frames.frame import FrameCodec
from vllm_ascend_ext.mtp_output.frames.roster import PythonIds
from vllm_ascend_ext.mtp_output.frames.rows import HEAD, NumpyRows, RowsHead
from vllm_ascend_ext.mtp_output.frames.section import Int32Array, Section
from vllm_ascend_ext.mtp_output.ring.counters import Counter, PythonCounter
from vllm_ascend_ext.mtp_output.ring.end_state import ABI, State
from vllm_ascend_ext.mtp_output.ring.file import RingFile, Word
from vllm_ascend_ext.mtp_record import MtpRecord

MODULE = "ascend_ext_channel"
FOLDER = Path(__file__).resolve().parents[2] / "lib"
"""The folder in which ``VLLM_ASCEND_EXT_BUILD=host`` (or npu) puts the module."""

NO_CPP_NOTE = (
    "the C++ module is not built, and frames go through Python, tens of times slower; reinstall with "
    "VLLM_ASCEND_EXT_BUILD=host, or npu"
)


class Backend(NamedTuple):
    """Bundles how frames are encoded and counters published. Both kinds write the same bytes.

    Attributes:
        module: the C++ module, None without one.
    """

    name: str
    codec: FrameCodec
    counter: Callable[[RingFile, Word, Word], Counter]
    module: Any


def python_backend() -> Backend:
    """Returns the backend of numpy and system calls, which needs nothing that was compiled here."""
    return Backend("python", FrameCodec(NumpyRows(), PythonIds()), PythonCounter, None)


def native_backend(folder: Path | None = None) -> Backend:
    """Loads the C++ module in `folder`; by default the installed one.

    Raises:
        OSError: it is not there, cannot be loaded, or is of another version.
    """
    module = _load((folder or FOLDER) / (MODULE + sysconfig.get_config_var("EXT_SUFFIX")))

    def counter(file: RingFile, word: Word, waits: Word) -> Counter:
        return NativeCounter(module, file, word, waits)

    return Backend("native", FrameCodec(NativeRows(module), NativeIds(module)), counter, module)


def installed_backend() -> Backend:
    """Returns the native backend where it was built, and the Python backend in a pure-Python install.

    Raises:
        OSError: what `native_backend` says.
    """
    return native_backend() if any(FOLDER.glob(f"*{MODULE}.*")) else python_backend()


def _load(path: Path) -> Any:
    again = "reinstall with VLLM_ASCEND_EXT_BUILD=host, or remove it"
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob(f"*{MODULE}.*"))
        only = f", only {others}, of another Python or version: {again}" if others else ""
        raise OSError(f"{path} is not there{only}")
    loader = ExtensionFileLoader(MODULE, str(path))
    spec = spec_from_loader(MODULE, loader)
    assert spec is not None
    stale = f"{path} was built from other sources than these: {again}"
    try:
        module = module_from_spec(spec)
        loader.exec_module(module)
        built_for = module.ABI, module.STATE_WORDS
    except (ImportError, AttributeError) as error:
        raise OSError(f"{stale}: {error}") from error
    if built_for != (ABI, len(State)):
        raise OSError(stale)
    return module


class NativeRows:
    """Implements `RowsCodec` in C++."""

    def __init__(self, module: Any) -> None:
        self._write, self._read = module.rows_write, module.rows_read

    def write(self, section: Section, memory: memoryview, at: int) -> int:
        packed_BW = section.packed_BW
        num_bytes: int = self._write(packed_BW, packed_BW.shape[0], section.num_slots, section.top_k, memory, at)
        if num_bytes < 0:
            count, status = packed_BW[-1 - num_bytes, :2].tolist()
            raise ValueError(
                f"row {-1 - num_bytes}: counts are 0 to {section.num_slots} and statuses bytes, "
                f"not {count} and {status}"
            )
        return num_bytes

    def read(self, frame: bytes, at: int, head: RowsHead) -> Int32Array:
        batch, num_slots, top_k, _ = head
        packed_BW = np.empty((batch, MtpRecord(num_slots, top_k).words), np.int32)
        code = self._read(frame, at, batch, num_slots, top_k, packed_BW)
        if code:
            row = min(-1 - code, batch)
            raise FrameError(at + HEAD.size + row, "counts of accepted tokens that are too large, or not all")
        return packed_BW


class NativeIds(PythonIds):
    """Implements `IdsCodec` in C++."""

    def __init__(self, module: Any) -> None:
        self._write, self._read = module.ids_write, module.ids_read

    def write(self, request_ids: tuple[str, ...]) -> tuple[int, bytes]:
        written: tuple[int, bytes] | None = self._write(request_ids)
        return super().write(request_ids) if written is None else written

    def read(self, blob: bytes, at: int, count: int, num_bytes: int, start: int) -> tuple[str, ...]:
        request_ids: tuple[str, ...] | None = self._read(blob, at, count, num_bytes)
        return super().read(blob, at, count, num_bytes, start) if request_ids is None else request_ids


class NativeCounter(PythonCounter):
    """Publishes with a release store and a fence, and asks the kernel only when what was waited for is there."""

    def __init__(self, module: Any, file: RingFile, word: Word, waits: Word) -> None:
        super().__init__(file, word, waits)
        self._publish, self._store = module.publish, module.store

    def publish(self, value: int) -> None:
        self._publish(self._words, self._word, value, self._waits)

    def announce(self, wanted: int) -> None:
        self._store(self._words, self._waits, wanted)
