# SPDX-License-Identifier: Apache-2.0
"""Says where everything is, in each of the emulator's two forms. Standard library only.

In a checkout the package is ``emulator``: it is built for ``.venv``'s torch and ``.venv-npu``'s torch_npu,
together with the plug-in's kernels. Installed by pip it is ``ascend_emulator``, and everything is the
environment's own.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
SOURCES = Path(__file__).resolve().parents[1]


class EmulatorError(RuntimeError):
    """Reports that the emulator cannot be built or started; the message says what, why and what to do."""


@dataclass(frozen=True)
class Environment:
    """Describes a Python environment.

    name: what messages call it. python: its interpreter. commands: the folder of its commands. folders: where its
    packages are. needs: files without which it is incomplete. mend: what completes it.
    """

    name: str
    python: Path
    commands: Path
    folders: tuple[Path, ...]
    needs: tuple[Path, ...]
    mend: str

    def package(self, name: str) -> Path:
        """Returns the folder of an installed package, which is not imported."""
        found = [folder / name for folder in self.folders if (folder / name / "version.py").is_file()]
        if not found:
            raise EmulatorError(f"no {name} in {self.name}: {self.mend}")
        return found[0]

    def check(self) -> None:
        """Raises when a part is missing."""
        if missing := [str(file) for file in self.needs if not file.is_file()]:
            raise EmulatorError(f"{self.name} is missing or incomplete (no {missing[0]}): {self.mend}")


@dataclass(frozen=True)
class Places:
    """Describes one form.

    command, python: how it and the environment's Python are called. torch: the environment with torch and the
    build tools. npu: that with torch_npu, in which commands run. cache: where libraries are built and kept.
    settings: a shell script that commands run after. kernels: the CMake folder of the plug-in's kernels. outside:
    folders beside SOURCES that libraries are made from. builds_kept: how many at least. keeps_objects: whether a
    build begins from the last one's.
    """

    command: str
    python: str
    torch: Environment
    npu: Environment
    cache: Path
    settings: Path | None = None
    kernels: Path | None = None
    outside: tuple[Path, ...] = ()
    builds_kept: int = 2
    keeps_objects: bool = True
    warnings_are_errors: bool = True

    def check(self) -> None:
        """Raises unless both environments are complete."""
        for environment in (self.torch, self.npu):
            environment.check()


def checkout(root: Path) -> Places:
    """Returns the places of the checkout in ``root``."""
    mend = f"run ./scripts/setup_npu.sh in {root}"

    def environment(folder: Path) -> Environment:
        folders = tuple(sorted(folder.glob("lib/python3*/site-packages"), reverse=True))
        return Environment(
            name=str(folder),
            python=folder / "bin" / "python",
            commands=folder / "bin",
            folders=folders,
            needs=(folder / "ascend-ext.stamp",),
            mend=mend,
        )

    return Places(
        command="python -m emulator",
        python="python",
        torch=environment(root / ".venv"),
        # the second pair of vLLM and vllm-ascend is in .venv-npu-030 (scripts/second_pair/setup.sh)
        npu=environment(root / os.environ.get("EMULATOR_ENVIRONMENT", ".venv-npu")),
        cache=root / ".cache" / "emulator",
        settings=root / "scripts" / "env.sh",
        kernels=root / "cmake" / "emulated",
        outside=(root / "csrc_ascendc", root / "cmake"),
    )


def installed() -> Places:
    """Returns the places in the environment of this process, where pip has put the package."""
    # in each Python process of the environment it calls startup.prepare; an editable installation has none
    startup = SOURCES.parent / f"{PACKAGE}.pth"
    environment = Environment(
        name=f"the environment {sys.prefix}",
        python=Path(sys.executable),
        commands=Path(sysconfig.get_path("scripts")),
        folders=tuple(Path(folder) for folder in sys.path if folder),
        needs=(startup,),
        mend=f"{sys.executable} -m pip install torch, torch_npu and ascend-emulator, the last not as editable",
    )
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Places(
        command="ascend-emulator",
        python=sys.executable,
        torch=environment,
        npu=environment,
        cache=caches / "ascend-emulator",
        builds_kept=8,  # environments with other versions of torch share the folder
        keeps_objects=False,
        warnings_are_errors=False,  # of a compiler that nobody has tried
    )


PLACES = checkout(SOURCES.parent) if PACKAGE == "emulator" else installed()
