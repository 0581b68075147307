# SPDX-License-Identifier: Apache-2.0
"""Calls the AscendC kernels compiled for the host on torch tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

LIBRARY = "ascend_ext_host"
ALIGNMENT = 512
_TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}


class BrokenRuleError(AssertionError):
    """Reports that a kernel broke a rule of AscendC.

    `kernel`, `core` ("all" for rules between cores), `line` (file:line), `rule` and `what` tell which and where.
    """

    def __init__(self, text: str) -> None:
        self.kernel, self.core, self.line, self.rule, self.what = text.split("\t")
        super().__init__(f"kernel {self.kernel}, core {self.core}, {self.line}: [{self.rule}] {self.what}")


class Statistics(ctypes.Structure):
    """Mirrors `ascendc_host::Statistics`: sums over the cores of the last launch."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "gm_bytes_read",
            "gm_bytes_written",
            "copies",
            "small_copies",
            "unaligned_copies",
            "vector_instructions",
            "vector_repeats",
            "vector_cycles",
            "scalar_accesses",
            "most_unified_buffer_bytes",
            "most_vector_repeats",
            "most_scalar_accesses",
            "most_copies",
            "most_vector_cycles",
        )
    ]


class Schedule(NamedTuple):
    """Says when instructions run (`ascendc_host::Schedule`); `check_order` turns the vector clocks on."""

    order: int
    check_order: bool = True


EAGER, LOADS_FIRST, STORES_FIRST = Schedule(0), Schedule(1), Schedule(2)
SCHEDULES = {"eager": EAGER, "lazy, loads first": LOADS_FIRST, "lazy, stores first": STORES_FIRST}


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a contiguous copy of `tensor` whose data start on 512 bytes, as NPU allocations do."""
    num_bytes = tensor.numel() * tensor.element_size()
    memory = torch.empty(num_bytes + ALIGNMENT, dtype=torch.uint8)
    start = -memory.data_ptr() % ALIGNMENT
    copy = memory[start : start + num_bytes].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


class HostKernels:
    """Calls launches of a host library; raises `BrokenRuleError` where the hardware would misbehave."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.ascend_ext_host_violation.restype = ctypes.c_char_p
        self.cores = 48
        self.set_schedule(EAGER)

    def set_schedule(self, schedule: Schedule) -> None:
        self._library.ascend_ext_host_configure(schedule.order, int(schedule.check_order), 0)

    @contextmanager
    def setting(self, cores: int, schedule: Schedule = EAGER) -> Iterator[HostKernels]:
        before, self.cores = self.cores, cores
        self.set_schedule(schedule)
        try:
            yield self
        finally:
            self.cores = before
            self.set_schedule(EAGER)

    @property
    def statistics(self) -> Statistics:
        """Returns the statistics of the last launch."""
        statistics = Statistics()
        self._library.ascend_ext_host_statistics(ctypes.byref(statistics))
        return statistics

    def launch(self, name: str, *arguments: torch.Tensor | int | float | None) -> None:
        """Calls ``ascend_ext_launch_<name>(cores, no stream, arguments)``: tensors by address, integers as int64.

        Raises:
            BrokenRuleError: by the kernel.
            ValueError: the tiling refused the shape.
        """
        code = getattr(self._library, f"ascend_ext_launch_{name}")(
            ctypes.c_uint32(self.cores), None, *map(_native, arguments)
        )
        if code == -1:
            raise BrokenRuleError(self._library.ascend_ext_host_violation().decode())
        if code != 0:
            raise ValueError(f"{name}: tiling error {code}")

    def symbol(self, name: str) -> ctypes._CFuncPtr:
        return getattr(self._library, name)

    # --- the operators, as in vllm_ascend_ext.ops ---------------------------------------------------------------

    def expert_load_add_(self, load: torch.Tensor, ids: torch.Tensor, num_tokens: torch.Tensor) -> None:
        out, ids = aligned(load), aligned(ids)
        sizes = (*ids.shape, load.shape[0], ids.element_size())
        self.launch("expert_load_add", out, ids, aligned(num_tokens), *sizes)
        load.copy_(out)

    def expert_load_add_counts_(self, load: torch.Tensor, counts: torch.Tensor, is_cumsum: bool) -> None:
        out, counts = aligned(load), aligned(counts)
        size = counts.element_size()
        self.launch("expert_load_add_counts", out, counts, load.shape[0], size, int(is_cumsum))
        load.copy_(out)

    def dp_pad(self, local: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
        out = aligned(_garbage(local, total, local.shape[1]))
        row_bytes = local.shape[1] * local.element_size()
        self.launch("dp_pad", out, aligned(local), rows, offset, total, row_bytes)
        return out

    def dp_unpad(self, packed: torch.Tensor, rows: int, offset: int) -> torch.Tensor:
        out = aligned(_garbage(packed, rows, packed.shape[1]))
        row_bytes = packed.shape[1] * packed.element_size()
        self.launch("dp_unpad", out, aligned(packed), rows, offset, row_bytes)
        return out

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, residual_out = aligned(_garbage(x, *x.shape)), aligned(_garbage(x, *x.shape))
        inputs = (aligned(x), aligned(residual), aligned(weight))
        self.launch("add_rms_norm", y, residual_out, *inputs, *x.shape, _TYPES[x.dtype], float(eps))
        return y, residual_out

    def mtp_pack_output(self, tokens: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        from vllm_ascend_ext.ops import MtpRecord

        top_k = rest[2].shape[2] if len(rest) > 2 else 0
        out = aligned(_garbage(tokens, tokens.shape[0], MtpRecord(tokens.shape[1], top_k).words))
        inputs = [aligned(tensor) for tensor in (tokens, *rest)]
        inputs += [None] * (6 - len(inputs))
        self.launch("mtp_pack_output", out, *inputs, *tokens.shape, top_k)
        return out


def _garbage(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Returns what freshly allocated memory may hold."""
    num_bytes = torch.Size(shape).numel() * like.element_size()
    return torch.full((num_bytes,), 0xA5, dtype=torch.uint8).view(like.dtype).view(shape)


def _native(argument: torch.Tensor | int | float | None) -> object:
    if argument is None:
        return None
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
