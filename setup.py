# SPDX-License-Identifier: Apache-2.0
"""Builds the native code, chosen by VLLM_ASCEND_EXT_BUILD; metadata is in pyproject.toml:

auto   npu where ASCEND_HOME_PATH is set, else none (the default)
none   pure Python, which says so
host   CMake builds the AscendC kernels for the CPU, for tests, and the channel of MTP output; needs a C++ compiler
       and Python's headers
npu    CMake builds both for the NPU and binds the kernels to torch; needs CANN, torch and torch_npu, too
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from vllm_ascend_ext import envs  # noqa: E402 - standard library only

CANN = "ASCEND_HOME_PATH"


def choice():
    """Returns none, host or npu."""
    asked = envs.VLLM_ASCEND_EXT_BUILD
    if asked == "npu" and CANN not in os.environ:
        raise SystemExit(f"vllm-ascend-ext: VLLM_ASCEND_EXT_BUILD=npu needs {CANN}: source CANN's set_env.sh")
    return asked if asked != "auto" else ("npu" if CANN in os.environ else "none")


def cmake(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != CANN or choice() == "npu"}
    if subprocess.run(["cmake", *arguments], env=environment).returncode:
        raise SystemExit(f"vllm-ascend-ext: cmake {arguments[0]} failed, its message is above")


def package_folders():
    """Returns where torch and torch_npu are, for CMake, which says what is missing. Neither is imported."""
    for package in ("torch", "torch_npu"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield f"-D{package.upper()}_DIR={Path(spec.origin).parent}"


class BuildPy(build_py):
    def run(self):
        super().run()
        if choice() == "none":
            print("vllm-ascend-ext: pure-Python install, no native kernels (VLLM_ASCEND_EXT_BUILD=npu adds them)")
            return
        target = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        build = ROOT / "build" / choice()
        cmake("-S", ROOT, "-B", build, f"-DPython3_EXECUTABLE={sys.executable}", *package_folders())
        cmake("--build", build, "--parallel", "2")
        cmake("--install", build, "--prefix", target / "vllm_ascend_ext" / "lib")


class NativeDistribution(Distribution):
    def has_ext_modules(self):
        """Returns whether the wheel has a library in it and so is for one platform."""
        return choice() != "none"


setup(cmdclass={"build_py": BuildPy}, distclass=NativeDistribution)
