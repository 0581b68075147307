# SPDX-License-Identifier: Apache-2.0
"""Builds the native code, chosen by VLLM_ASCEND_EXT_BUILD; metadata is in pyproject.toml:

auto     npu where ASCEND_HOME_PATH is set, else channel where a C++ compiler and Python's headers are, else none
         (the default)
none     pure Python
channel  the channel of MTP output; needs a C++ compiler and Python's headers
host     CMake builds the channel, and the AscendC kernels for the CPU, for tests; needs CMake, too
npu      CMake builds both for the NPU and binds the kernels to torch; needs CANN, torch and torch_npu, too
"""

import functools
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler
except ImportError:  # private names: where they move, `channel` must be asked for
    new_compiler = None

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from vllm_ascend_ext import __version__, envs  # noqa: E402 - standard library only
from vllm_ascend_ext.mtp_output.ring.sources import fingerprint  # noqa: E402 - likewise

CANN = "ASCEND_HOME_PATH"
CHANNEL = ROOT / "csrc_channel"
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wno-missing-field-initializers"]


@functools.cache
def choice():
    """Returns none, channel, host or npu."""
    asked = envs.VLLM_ASCEND_EXT_BUILD
    if asked == "npu" and CANN not in os.environ:
        raise SystemExit(f"vllm-ascend-ext: VLLM_ASCEND_EXT_BUILD=npu needs {CANN}: source CANN's set_env.sh")
    if asked != "auto":
        return asked
    if CANN in os.environ:
        return "npu"
    return "channel" if sys.platform == "linux" and can_compile() else "none"


def can_compile():
    """Returns whether a small module of this Python can be compiled and linked."""
    if new_compiler is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(
            "#include <Python.h>\n#include <vector>\nint probe() { return std::vector<int>(1)[0]; }\n"
        )
        compiler = new_compiler()
        customize_compiler(compiler)
        try:
            objects = compiler.compile(
                [str(source)], "/", include_dirs=[sysconfig.get_path("include")], extra_postargs=FLAGS
            )
            compiler.link_shared_object(objects, str(Path(folder, "probe.so")), target_lang="c++")
        except Exception:  # of a class that depends on how setuptools was imported
            return False
    return True


def channel():
    """Returns the module that vllm_ascend_ext/mtp_output/ring/backend.py loads."""
    return Extension(
        "vllm_ascend_ext.lib.ascend_ext_channel",
        sorted(str(path.relative_to(ROOT)) for path in CHANNEL.glob("*.cpp")),
        depends=sorted(str(path.relative_to(ROOT)) for path in CHANNEL.glob("*.h")),
        define_macros=[
            ("ASCEND_EXT_SOURCES", f'"{fingerprint(CHANNEL)}"'),
            ("ASCEND_EXT_VERSION", f'"{__version__}"'),
        ],
        extra_compile_args=FLAGS,
        language="c++",
    )


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
            print(
                "vllm-ascend-ext: pure-Python install: without its C++ module, which needs a C++ compiler and "
                "Python's headers, frames of mtp_output take tens of times longer; no native kernels "
                "(VLLM_ASCEND_EXT_BUILD=npu adds them)"
            )
        if choice() not in ("host", "npu"):
            return
        target = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        build = ROOT / "build" / choice()
        cmake("-S", ROOT, "-B", build, f"-DPython3_EXECUTABLE={sys.executable}", *package_folders())
        cmake("--build", build, "--parallel", "2")
        cmake("--install", build, "--prefix", target / "vllm_ascend_ext" / "lib")


class BuildExt(build_ext):
    def run(self):
        # objects of an older build are no good: the module knows the digest of its sources
        self.force = True
        if self.inplace or self.editable_mode:
            (ROOT / "vllm_ascend_ext" / "lib").mkdir(exist_ok=True)
        super().run()


class NativeDistribution(Distribution):
    def has_ext_modules(self):
        """Returns whether the wheel has a library in it and so is for one platform."""
        return choice() != "none"


setup(
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
    distclass=NativeDistribution,
    ext_modules=[channel()] if choice() == "channel" else [],
)
