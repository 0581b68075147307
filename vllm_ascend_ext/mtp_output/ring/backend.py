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

from vllm_ascend_ext import __version__
from vllm_ascend_ext.mtp_output.errors import FrameError
from vllm_ascend_ext.mtp_output.frames.rows import HEAD, NumpyRows, RowsCodec, RowsHead
from vllm_ascend_ext.mtp_output.frames.section import Int32Array, Section
from vllm_ascend_ext.mtp_output.ring.counters import Counter, PythonCounter
from vllm_ascend_ext.mtp_output.ring.end_state import ABI, State
from vllm_ascend_ext.mtp_output.ring.file import RingFile, Word
from vllm_ascend_ext.mtp_output.ring.sources import fingerprint
from vllm_ascend_ext.mtp_record import MtpRecord

MODULE = "ascend_ext_channel"
FOLDER = Path(__file__).resolve().parents[2] / "lib"
"""The folder in which an installation puts the module."""
SOURCES = Path(__file__).resolve().parents[3] / "csrc_channel"
"""Its sources, in a checkout."""

NO_CPP_NOTE = (
    "the C++ module is not built, and frames go through Python, tens of times slower; reinstall where there is a "
    "C++ compiler (VLLM_ASCEND_EXT_BUILD=channel insists on it)"
)


class Backend(NamedTuple):
    """Bundles how frames are encoded and counters published. Both kinds write the same bytes.

    Attributes:
        rows: the codec of rows sections.
        module: the C++ module, None without one.
    """

    name: str
    rows: RowsCodec
    counter: Callable[[RingFile, Word, Word], Counter]
    module: Any


def python_backend() -> Backend:
    """Returns the backend of numpy and system calls, which needs nothing that was compiled here."""
    return Backend("python", NumpyRows(), PythonCounter, None)


def native_backend(folder: Path | None = None) -> Backend:
    """Loads the C++ module in `folder`; by default the installed one.

    Raises:
        OSError: it is not there, cannot be loaded, or is of another version.
    """
    module = _load((folder or FOLDER) / (MODULE + sysconfig.get_config_var("EXT_SUFFIX")))

    def counter(file: RingFile, word: Word, waits: Word) -> Counter:
        return NativeCounter(module, file, word, waits)

    return Backend("native", NativeRows(module), counter, module)


def installed_backend() -> Backend:
    """Returns the native backend where it was built, and the Python backend in a pure-Python install.

    Raises:
        OSError: what `native_backend` says.
    """
    return native_backend() if any(FOLDER.glob(f"*{MODULE}.*")) else python_backend()


def _load(path: Path) -> Any:
    again = "reinstall with VLLM_ASCEND_EXT_BUILD=channel, or host, or remove it"
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
        built_for = module.ABI, module.STATE_WORDS, module.VERSION
    except (ImportError, AttributeError) as error:
        raise OSError(f"{stale}: {error}") from error
    if built_for != (ABI, len(State), __version__) or (
        SOURCES.is_dir() and fingerprint(SOURCES) != module.SOURCES  # an editable installation that was not redone
    ):
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


class NativeCounter(PythonCounter):
    """Publishes with a release store and a fence, and asks the kernel only when what was waited for is there."""

    def __init__(self, module: Any, file: RingFile, word: Word, waits: Word) -> None:
        super().__init__(file, word, waits)
        self._publish, self._store = module.publish, module.store

    def publish(self, value: int) -> None:
        self._publish(self._words, self._word, value, self._waits)

    def announce(self, wanted: int) -> None:
        self._store(self._words, self._waits, wanted)
