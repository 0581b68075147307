# SPDX-License-Identifier: Apache-2.0
"""Attributes of vLLM's modules that have another value for the duration of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream import patches

Switch = tuple[nn.Module, str, Any]  # whose attribute, its name, its value meanwhile


class Switches:
    """Attributes, child modules and methods of single modules, thrown and taken back together.

    Raises:
        IncompatibleVllmError: a module has no such attribute, so that throwing it would change nothing.
    """

    def __init__(self, switches: Sequence[Switch]) -> None:
        self._switches = list(switches)
        for owner, name, _ in self._switches:
            if not hasattr(owner, name):
                raise IncompatibleVllmError(
                    f"this vLLM differs from the tested one: {type(owner).__name__} has no {name}. Install "
                    f"vllm=={patches.TESTED_VLLM[-1]}"
                )

    @contextmanager
    def thrown(self) -> Iterator[None]:
        """Set them all; on leaving, however, they are what they were."""
        restore: list[Callable[[], None]] = []
        try:
            for owner, name, value in self._switches:
                restore.append(_restoration(owner, name))
                setattr(owner, name, value)
            yield
        finally:
            for undo in reversed(restore):
                undo()


def _restoration(owner: nn.Module, name: str) -> Callable[[], None]:
    """What brings the present value back; a method of the class shows again when the instance's own is gone."""
    if name in vars(owner) or name in owner._modules:
        return partial(setattr, owner, name, getattr(owner, name))
    return partial(delattr, owner, name)
