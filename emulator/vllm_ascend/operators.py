# SPDX-License-Identifier: Apache-2.0
"""Puts Python functions behind torch operators of the NPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

_libraries: dict[str, torch.library.Library] = {}  # an operator lasts as long as the library that registered it


def _library(namespace: str) -> torch.library.Library:
    if namespace not in _libraries:
        _libraries[namespace] = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
    return _libraries[namespace]


def declare(namespace: str, schema: str) -> None:
    """Declares an operator without a body, unless there is one of this name."""
    if not hasattr(getattr(torch.ops, namespace), schema.partition("(")[0]):
        _library(namespace).define(schema)  # type: ignore[no-untyped-call]


def define(
    namespace: str,
    schema: str,
    function: Callable[..., object],
    shapes: Callable[..., object] | None = None,
) -> None:
    """Defines an operator that nothing else defines, and runs it by `function` on an NPU.

    torch.compile asks `shapes` for results without values; an operator without it cannot be compiled.
    """
    library = _library(namespace)
    name = schema.partition("(")[0]
    library.define(schema)  # type: ignore[no-untyped-call]
    library.impl(name, function, "PrivateUse1")  # type: ignore[no-untyped-call]
    if shapes is not None:
        library.impl(name, shapes, "Meta")  # type: ignore[no-untyped-call]


def override(namespace: str, name: str, function: Callable[..., object]) -> None:
    """Runs an operator by `function` on an NPU. Raises AttributeError when there is no such operator."""
    operator, _, overload = name.partition(".")
    getattr(getattr(getattr(torch.ops, namespace), operator), overload or "default")
    _library(namespace).impl(name, function, "PrivateUse1", allow_override=True)  # type: ignore[no-untyped-call]
