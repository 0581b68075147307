# SPDX-License-Identifier: Apache-2.0
"""Finds what the installed vLLM and vllm-ascend define, in their folders, without importing them (`Sources`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from vllm_ascend_ext.integration.upstream.seams.outline import Outline
from vllm_ascend_ext.integration.upstream.seams.seam import Seam

_MOST_IMPORTS = 5  # longest chain of imports that is followed to a definition


class Sources:
    """Reads the modules of some packages, each once.

    Args:
        folders: package → its folder, None for one to leave out; by default where Python would import it from.
        texts: module → source that stands for the one in the folder.
        shared: other sources of the same folders, whose outlines are taken where `texts` has none.
    """

    def __init__(
        self,
        folders: Mapping[str, Path | None] | None = None,
        texts: Mapping[str, str] | None = None,
        shared: Sources | None = None,
    ) -> None:
        self._folders: dict[str, Path | None] = dict(folders or {})
        self._texts = dict(texts or {})
        self._shared = shared
        self._outlines: dict[str, Outline | None] = {}

    def has_package(self, package: str) -> bool:
        """Returns whether the package is there at all."""
        return self._folder(package) is not None if self._shared is None else self._shared.has_package(package)

    def text(self, module: str) -> str | None:
        """Returns a module's source, or None where there is no such file."""
        if module in self._texts:
            return self._texts[module]
        file = self._file(module)
        return None if file is None else file.read_text(encoding="utf-8")

    def outline(self, module: str) -> Outline | None:
        """Returns what a module defines, or None where it has no source."""
        if module not in self._outlines:
            if self._shared is not None and module not in self._texts:
                return self._shared.outline(module)
            text = self.text(module)
            self._outlines[module] = None if text is None else Outline(text)
        return self._outlines[module]

    def put(self, module: str, outline: Outline) -> None:
        """Has an outline stand for what the module's source would give."""
        self._outlines[module] = outline

    def problem_with(self, seam: Seam) -> str | None:
        """Returns what keeps us from relying on a seam, or None."""
        outline = self.outline(seam.module)
        if outline is None:
            return f"{seam.target} is gone (there is no source of {seam.module})"
        if outline.find(*seam.path) is None:
            return f"{seam.target} is gone ({_where_it_was(seam)})"
        if seam.parameters is None:
            return None
        found = self.parameters(seam)
        if found is None:
            return f"{seam.target} is no function any more"
        if missing := [name for name in seam.parameters if name not in found]:
            return f"{seam.target} has no parameter {', '.join(missing)} (it has {', '.join(found)})"
        if list(seam.parameters) != [name for name in found if name in seam.parameters]:
            return f"{seam.target} has its parameters in another order: {', '.join(found)}"
        return None

    def parameters(self, seam: Seam) -> tuple[str, ...] | None:
        """Returns the parameters of a function or a class, which the seam's module may import from another."""
        module, path = seam.module, seam.path
        for _ in range(_MOST_IMPORTS):
            outline = self.outline(module)
            found = None if outline is None else outline.find(*path)
            if outline is None or found is None:
                return None
            if found.source is None:
                return outline.parameters(*path)
            source, name = found.source
            module, path = self._absolute(module, source), (name,)
        return None

    def how(self, seam: Seam) -> str:
        """Returns how a sound seam is checked, in words for `doctor`."""
        outline = self.outline(seam.module)
        found = None if outline is None else outline.find(*seam.path)
        if found is None:
            return ""
        where = "class body" if len(seam.path) > 1 else "module"
        words = {"instance": "assigned to self in a method", "import": "imported by the module"}
        described = words.get(found.kind, f"{found.kind} in the {where}")
        return described + (f", parameters {', '.join(seam.parameters)}" if seam.parameters else "")

    def _folder(self, package: str) -> Path | None:
        if package not in self._folders:
            spec = importlib.util.find_spec(package)  # imports nothing, because the package is at the top level
            locations = None if spec is None else spec.submodule_search_locations
            self._folders[package] = Path(next(iter(locations))) if locations else None
        return self._folders[package]

    def _file(self, module: str) -> Path | None:
        package, *parts = module.split(".")
        folder = self._folder(package)
        if folder is None:
            return None
        path = folder.joinpath(*parts)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
        return None

    def _absolute(self, module: str, source: str) -> str:
        """Returns the name of a module that `module` imports from as `source`."""
        name = source.lstrip(".")
        level = len(source) - len(name)
        if not level:
            return name
        file = self._file(module)
        parts = module.split(".")
        if file is not None and file.name == "__init__.py":
            level -= 1
        return ".".join([*parts[: len(parts) - level], *([name] if name else [])])


def _where_it_was(seam: Seam) -> str:
    if len(seam.path) == 1:
        return f"{seam.module} does not define it"
    return f"class {'.'.join(seam.path[:-1])} of {seam.module} does not define it"
