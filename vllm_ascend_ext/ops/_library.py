# SPDX-License-Identifier: Apache-2.0
"""Defines the operator library ``ascend_ext``: schemas in one place, to which backends only add kernels.

`define_op` registers the reference for every device (CompositeExplicitAutograd), so it must be vectorised
torch that never waits for the device. A kernel for one device overrides it there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch

from vllm_ascend_ext import envs

NAMESPACE = "ascend_ext"
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]

Kind = Literal["reference", "numpy", "triton", "ascendc"]


class _Backend(NamedTuple):
    dispatch_key: str
    kind: Kind  # what its implementations are meant to be written in
    takes_references: bool = False  # where it has no implementation, the reference is meant to run


_BACKENDS: Mapping[str, _Backend] = MappingProxyType(
    {
        "cpu": _Backend("CPU", "numpy", takes_references=True),  # the host build of AscendC kernels is for tests
        "cuda": _Backend("CUDA", "triton"),
        "npu": _Backend("PrivateUse1", "ascendc"),
    }
)
_op_names: list[str] = []
_host_kernels: dict[tuple[str, str], Callable[..., Any]] = {}  # device type and operator → what runs in Python
_why_missing: dict[str, str] = {"cpu": "the reference is what runs on the CPU"}


class MissingKernelError(RuntimeError):
    """Reports, in strict mode, an operator that has only its reference on the device in use."""


class OpCoverage(NamedTuple):
    """Describes what runs when `op` is called with tensors of `device_type`."""

    op: str
    device_type: str
    kind: Kind
    reason: str | None  # why it is the reference, None when there is a kernel


def define_op(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Defines one operator in the namespace ``ascend_ext``.

    Args:
        schema: ``name(arguments) -> returns``; a mutating operator's name ends in an underscore.
        reference: the implementation for every device without a kernel of its own.
        fake: the implementation on tensors without data.

    Raises:
        RuntimeError: torch knows an operator of this name already.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    _op_names.append(name)
    overload: torch._ops.OpOverload = getattr(getattr(torch.ops, NAMESPACE), name).default
    return overload


def register_kernels(device_type: str, kernels: Mapping[str, Callable[..., Any]]) -> None:
    """Makes `kernels` (operator name → implementation) serve tensors of `device_type`.

    Raises:
        RuntimeError: an operator has a kernel there already, or does not exist.
    """
    for name, kernel in kernels.items():
        LIBRARY.impl(name, kernel, _BACKENDS[device_type].dispatch_key)  # type: ignore[no-untyped-call]
        if _BACKENDS[device_type].kind == "numpy":
            _host_kernels[device_type, name] = kernel


def undispatched(op: torch._ops.OpOverload, device_type: str) -> Callable[..., Any]:
    """Returns what serves `op` on `device_type`, for a caller whose calls no graph captures and no compiler sees.

    Where that is a function of the host, it is called without torch's dispatcher, which takes longer than counting
    a small step does. Elsewhere it is the operator itself.
    """
    return _host_kernels.get((device_type, op._schema.name.partition("::")[2]), op)


def explain_missing(device_type: str, reason: str) -> None:
    """Says why `device_type` has only references, for `coverage` and for strict mode."""
    _why_missing[device_type] = reason


def coverage(device_types: Iterable[str]) -> list[OpCoverage]:
    """Returns which implementation serves each operator on each of `device_types` ("cpu", "cuda", "npu").

    Raises:
        ValueError: an unknown device type.
    """
    rows = []
    for device_type in device_types:
        if device_type not in _BACKENDS:
            raise ValueError(f"unknown device type {device_type!r}; known: {', '.join(_BACKENDS)}")
        backend = _BACKENDS[device_type]
        for name in _op_names:
            if _has_kernel(name, backend.dispatch_key):
                rows.append(OpCoverage(name, device_type, backend.kind, None))
            else:
                reason = _why_missing.get(device_type, f"no {backend.kind} kernel was registered")
                rows.append(OpCoverage(name, device_type, "reference", reason))
    return rows


def require_kernels(device_type: str) -> None:
    """Does nothing unless ``VLLM_ASCEND_EXT_STRICT_OPS`` is set. On the CPU no kernel is missing.

    Raises:
        MissingKernelError: strict mode, and some operator has only its reference on `device_type`.
        ValueError: an unknown device type.
    """
    rows = coverage([device_type])
    missing = [row for row in rows if row.kind == "reference" and not _BACKENDS[device_type].takes_references]
    if missing and envs.VLLM_ASCEND_EXT_STRICT_OPS:
        raise MissingKernelError(
            f"VLLM_ASCEND_EXT_STRICT_OPS is set, and on {device_type} these operators have only their "
            f"reference: {', '.join(row.op for row in missing)} ({missing[0].reason})"
        )


def _has_kernel(name: str, dispatch_key: str) -> bool:
    """Returns whether a kernel was registered under `dispatch_key` itself, not inherited. Private torch API."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", dispatch_key))
