# SPDX-License-Identifier: Apache-2.0
"""Does something to a module as soon as it has been imported. Standard library only."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
from collections.abc import Callable, Sequence
from types import ModuleType


class AfterImport(importlib.abc.Loader):
    """Runs a module with its own loader, then calls ``then`` with it."""

    def __init__(self, loader: importlib.abc.Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then(module)


def find_spec(
    fullname: str, path: Sequence[str] | None, target: ModuleType | None, then: Callable[[ModuleType], None]
) -> importlib.machinery.ModuleSpec | None:
    """Returns the spec that Python itself would find, with ``then`` behind its loader."""
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.loader is not None:
        spec.loader = AfterImport(spec.loader, then)
    return spec
