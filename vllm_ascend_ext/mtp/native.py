# SPDX-License-Identifier: Apache-2.0
"""The channel's inner loops in C++ (csrc_host/mtp_channel.cpp), by ctypes; and which of the two an install has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vllm_ascend_ext.mtp.end_state import ABI, NUM_WORDS
from vllm_ascend_ext.mtp.errors import FrameError
from vllm_ascend_ext.mtp.ring_file import RingFile, Word
from vllm_ascend_ext.mtp.rows import HEAD, Memory, NumpyRows, RowsCodec, RowsHead
from vllm_ascend_ext.mtp.section import Int32Array, Section
from vllm_ascend_ext.mtp.wakeup import Counter, PythonCounter
from vllm_ascend_ext.mtp_record import MtpRecord

LIBRARY = Path(__file__).resolve().parent.parent / "lib" / "libascend_ext_channel.so"
"""What ``VLLM_ASCEND_EXT_BUILD=host`` (or npu) builds."""


class Backend(NamedTuple):
    """How frames are encoded and counters published. Both kinds write the same bytes.

    Attributes:
        functions: the loaded library, None without one.
    """

    name: str
    codec: RowsCodec
    counter: Callable[[RingFile, Word, Word], Counter]
    functions: Any


def python_backend() -> Backend:
    """numpy and system calls; needs nothing that was compiled here."""
    return Backend("python", NumpyRows(), PythonCounter, None)


def native_backend(library: Path = LIBRARY) -> Backend:
    """The C++ library.

    Raises:
        OSError: it is not there, cannot be loaded, or is of another version.
    """
    functions = _load(library)

    def counter(file: RingFile, word: Word, waits: Word) -> Counter:
        return NativeCounter(functions, file, word, waits)

    return Backend("native", NativeRows(functions), counter, functions)


def installed_backend() -> Backend:
    """The native one where it was built, and the one in Python of a pure-Python install."""
    return native_backend() if LIBRARY.is_file() else python_backend()


def _load(library: Path) -> Any:
    """Calls keep the interpreter's lock, each being a few microseconds; but not the one that waits."""
    functions: Any = ctypes.PyDLL(str(library))
    functions.ascend_ext_receive_within = getattr(ctypes.CDLL(str(library)), "ascend_ext_receive_within", None)
    i64, u64, pointer = ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
    records = ctypes.POINTER(ctypes.c_int32)
    signatures = {
        "abi": (u64, []),
        "state_words": (u64, []),
        "send": (u64, [pointer, u64, records, records]),
        "receive": (u64, [pointer, records, records]),
        "receive_within": (u64, [pointer, records, records, u64]),
        "rows_write": (i64, [records, u64, u64, u64, pointer]),
        "rows_read": (i64, [ctypes.c_char_p, u64, u64, u64, u64, records]),
        "xxh64": (u64, [ctypes.c_char_p, u64]),
        "store": (None, [pointer, u64]),
        "publish": (None, [pointer, u64, pointer]),
    }
    stale = f"{library} was built from other sources than these: build again, or remove it"
    for name, (result, arguments) in signatures.items():
        function = getattr(functions, f"ascend_ext_{name}", None)
        if function is None:
            raise OSError(stale)
        function.restype, function.argtypes = result, arguments
    if (functions.ascend_ext_abi(), functions.ascend_ext_state_words()) != (ABI, NUM_WORDS):
        raise OSError(stale)
    return functions


class NativeRows:
    """`RowsCodec` in C++."""

    def __init__(self, functions: Any) -> None:
        self._write, self._read = functions.ascend_ext_rows_write, functions.ascend_ext_rows_read

    def write(self, section: Section, memory: Memory, at: int) -> int:
        packed_BW = section.packed_BW
        num_bytes: int = self._write(
            *(records_of(packed_BW), packed_BW.shape[0], section.num_slots, section.top_k, memory.address + at)
        )
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
        code = self._read(frame, at, batch, num_slots, top_k, records_of(packed_BW))
        if code:
            row = min(-1 - code, batch)
            raise FrameError(at + HEAD.size + row, "counts of accepted tokens that are too large, or not all")
        return packed_BW


def records_of(array: Int32Array) -> Any:
    """The memory of `array`, for a pointer argument; quicker than ``array.ctypes``."""
    try:
        return ctypes.c_int32.from_buffer(array.data)
    except (TypeError, ValueError):  # read-only, empty
        return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_int32))


class NativeCounter(PythonCounter):
    """Publishes with a release store and a fence, and asks the kernel only when what was waited for is there."""

    def __init__(self, functions: Any, file: RingFile, word: Word, waits: Word) -> None:
        super().__init__(file, word, waits)
        self._publish, self._store = functions.ascend_ext_publish, functions.ascend_ext_store
        self._waits_address = file.word_address(waits)

    def publish(self, value: int) -> None:
        self._publish(self._address, value, self._waits_address)

    def announce(self, wanted: int) -> None:
        self._store(self._waits_address, wanted)
