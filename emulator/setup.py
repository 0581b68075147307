# SPDX-License-Identifier: Apache-2.0
"""Makes the wheel of ascend-emulator: this folder as the package ascend_emulator, the C++ sources in it as data,
and a .pth file beside it. Metadata is in pyproject.toml."""

from __future__ import annotations

import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGE = "ascend_emulator"
# Python runs it at its start. Without the emulator it looks for one variable, which the launcher sets.
STARTUP = f"import os; 'EMULATOR_LIB' in os.environ and __import__('{PACKAGE}.startup').startup.prepare()\n"


class BuildPy(build_py):
    """Adds the .pth file, and leaves this file out."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, f"{PACKAGE}.pth").write_text(STARTUP)

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


build = tempfile.TemporaryDirectory()  # nothing is left in the sources, and nothing of an older build gets in
setup(
    packages=[PACKAGE, *(f"{PACKAGE}.{name}" for name in find_packages(Path(__file__).parent))],
    package_dir={PACKAGE: "."},
    package_data={PACKAGE: ["CMakeLists.txt", "README.md", "csrc/**/*"]},
    cmdclass={"build_py": BuildPy},
    options={"build": {"build_base": build.name}, "egg_info": {"egg_base": build.name}},
)
