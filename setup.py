# SPDX-License-Identifier: Apache-2.0
"""Metadata is in pyproject.toml. This adds the native build: VLLM_ASCEND_EXT_BUILD=host pip install . runs CMake
and puts the host library into the package; the default is a pure-Python install, which says so."""

import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from vllm_ascend_ext import envs  # noqa: E402 - standard library only


class BuildPy(build_py):
    def run(self):
        super().run()
        choice = envs.VLLM_ASCEND_EXT_BUILD
        if choice == "npu":
            raise SystemExit("vllm-ascend-ext: no NPU kernels in this release; use VLLM_ASCEND_EXT_BUILD=host")
        if choice == "none":
            print("vllm-ascend-ext: pure-Python install (VLLM_ASCEND_EXT_BUILD=host adds the native host library)")
            return
        target = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        build = ROOT / "build" / "host"
        subprocess.run(["cmake", "-S", ROOT, "-B", build], check=True)
        subprocess.run(["cmake", "--build", build], check=True)
        subprocess.run(["cmake", "--install", build, "--prefix", target / "vllm_ascend_ext" / "lib"], check=True)


class NativeDistribution(Distribution):
    def has_ext_modules(self):
        """A wheel with a library in it is for one platform."""
        return envs.VLLM_ASCEND_EXT_BUILD != "none"


setup(cmdclass={"build_py": BuildPy}, distclass=NativeDistribution)
