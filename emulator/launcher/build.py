# SPDX-License-Identifier: Apache-2.0
"""Builds the emulator's libraries once per state of their sources, torch and compiler. Standard library only.

The finished libraries are copied to ``<key>/lib`` in the cache, so that processes that run on an older build keep
it. In a checkout objects stay in one folder, so that a change compiles only what it touches.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import supported
from .places import PLACES, SOURCES, EmulatorError

GIB_PER_JOB = 2  # a file that includes torch's headers
KEY = re.compile(r"[0-9a-f]{16}")


def source_files(sources: Path = SOURCES, outside: Iterable[Path] = PLACES.outside) -> list[Path]:
    """Returns everything that the libraries are made from: the emulator, and in a checkout the plug-in's kernels
    with their binding."""
    folders = (sources / "csrc", *outside)
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sorted([sources / "CMakeLists.txt", *(f for f in files if "__pycache__" not in f.parts)])


def digest(files: Iterable[Path], versions: Iterable[str], root: Path = SOURCES.parent) -> str:
    """Returns sixteen hexadecimal digits that change with any file's name or content and with any version."""
    sha = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        sha.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        sha.update(content)
    for version in versions:
        sha.update(f"\0{version}".encode())
    return sha.hexdigest()[:16]


def package_version(package: Path) -> str:
    """Returns the version of an installed torch or torch_npu, without importing it."""
    found = re.search(r"__version__ = '([^']+)'", (package / "version.py").read_text(encoding="utf-8"))
    if not found:
        raise EmulatorError(f"{package / 'version.py'} names no version: {PLACES.torch.mend}")
    return found.group(1)


def tool(name: str, why: str) -> str:
    """Returns the path of a build tool: the environment's own, else the system's."""
    own = PLACES.torch.commands / name
    if os.access(own, os.X_OK):
        return str(own)
    found = shutil.which(name)
    if not found:
        raise EmulatorError(
            f"{name} not found: the emulator {why}; install it with the system's package manager, "
            f"or, where it is to come from PyPI, {PLACES.torch.mend}"
        )
    return found


def compiler() -> str:
    """Returns the C++ compiler: $CXX, else g++."""
    return tool(os.environ.get("CXX") or "g++", "is C++17 and compiled on this machine (GCC 11 or later, or $CXX)")


def compiler_version(path: str) -> str:
    """Returns the first line of what the compiler says of itself."""
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmulatorError(f"the C++ compiler {path} does not run: {error}") from error
    return result.stdout.partition("\n")[0]


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks a file for one process at a time; others wait and say for what."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("emulator: another process is building, waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)  # a compilation that outlives us keeps it
        yield


def remove_old(cache: Path, keep: str, objects: str, builds_kept: int = PLACES.builds_kept) -> None:
    """Removes old builds: keeps the newest, ``keep`` among them, those in use, and no other folder of objects."""
    for path in cache.glob("objects-*"):
        if path.name != objects:
            shutil.rmtree(path, ignore_errors=True)
    builds = [path for path in cache.iterdir() if KEY.fullmatch(path.name) and path.name != keep]
    builds.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in builds[builds_kept - 1 :]:
        if not in_use(path):
            shutil.rmtree(path, ignore_errors=True)


def hold(build: Path) -> None:
    """Marks the build as in use by this process, by what it becomes with ``exec``, and by its forks."""
    file = os.open(build / "in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(file, fcntl.LOCK_SH)
    os.set_inheritable(file, True)


def in_use(build: Path) -> bool:
    """Returns whether a process holds the build."""
    with open(build / "in-use", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def num_jobs() -> int:
    """Compilations at a time: what the processors and the memory allow."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / (1 << 30)
    return max(1, min(len(os.sched_getaffinity(0)), int(gib / GIB_PER_JOB)))


def run_logged(command: list[str], log: Path) -> None:
    """Runs a build step with its output in ``log`` and, on a terminal, its progress on stderr."""
    tail: deque[str] = deque(maxlen=60)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, close_fds=False
    )
    assert process.stdout is not None
    with open(log, "a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            tail.append(line)
            if sys.stderr.isatty() and (progress := re.match(r"\[\d+/\d+\]", line)):
                print(f"\remulator: {progress.group()} ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if process.wait() != 0:
        print("".join(tail), file=sys.stderr)
        raise EmulatorError(f"{Path(command[0]).name} failed (status {process.returncode}); see {log}")


class Toolchain(NamedTuple):
    """Describes what the sources are built with."""

    torch: Path
    torch_npu: Path
    cxx: str

    @property
    def versions(self) -> list[str]:
        """Returns what a build's key covers beside the sources."""
        return [package_version(self.torch), package_version(self.torch_npu), compiler_version(self.cxx)]


def toolchain() -> Toolchain:
    """Returns torch, torch_npu and the C++ compiler; raises where they or the machine are not supported."""
    supported.machine()
    torch, torch_npu = PLACES.torch.package("torch"), PLACES.npu.package("torch_npu")
    supported.check_pair(package_version(torch), package_version(torch_npu))
    return Toolchain(torch, torch_npu, compiler())


def compile_libraries(objects: Path, tools: Toolchain) -> Path:
    """Configures and builds in ``objects``; returns the folder of the libraries."""
    cmake = tool("cmake", "is built with CMake")
    ninja = tool("ninja", "is built with Ninja")
    objects.mkdir(parents=True, exist_ok=True)
    log = objects / "build.log"
    log.unlink(missing_ok=True)
    variables = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "CMAKE_CXX_COMPILER": tools.cxx,
        "TORCH_DIR": tools.torch,
        "TORCH_NPU_DIR": tools.torch_npu,
        "Python3_EXECUTABLE": PLACES.torch.python,
        "WARNINGS_ARE_ERRORS": "ON" if PLACES.warnings_are_errors else "OFF",
        "PLUGIN_KERNELS": PLACES.kernels or "",
    }
    definitions = [f"-D{name}={value}" for name, value in variables.items()]
    run_logged([cmake, "-S", str(SOURCES), "-B", str(objects), "-G", "Ninja", *definitions], log)
    run_logged([cmake, "--build", str(objects), "--parallel", str(num_jobs())], log)
    return objects / "lib"


def build_stable(objects: Path, tools: Toolchain) -> str:
    """Builds until the sources are the same before and after; returns their key."""
    for _ in range(5):
        key = digest(source_files(), tools.versions)
        libraries = compile_libraries(objects, tools)
        if digest(source_files(), tools.versions) == key:
            break
    else:
        raise EmulatorError(f"the sources in {SOURCES} keep changing while they are built: try again")
    if not (PLACES.cache / key).exists():
        staging = PLACES.cache / f"{key}.new"
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(libraries, staging / "lib", symlinks=True)
        staging.rename(PLACES.cache / key)
    return key


def library_folder(versions: list[str]) -> Path:
    """Returns where the libraries of the present sources are, or will be."""
    return PLACES.cache / digest(source_files(), versions) / "lib"


def ensure_built() -> Path:
    """Returns the folder with the libraries for the present sources, built when there is none."""
    tools = toolchain()
    libraries = library_folder(tools.versions)
    if libraries.is_dir():
        os.utime(libraries.parent)
        return libraries
    with lock(PLACES.cache):
        if libraries.is_dir():  # while waiting
            return libraries
        about = f"{supported.machine()}; some minutes the first time"
        print(f"emulator: building its libraries ({about})", file=sys.stderr, flush=True)
        begin = time.monotonic()
        objects = PLACES.cache / f"objects-{digest([], [*tools.versions, str(SOURCES), str(tools.torch)])}"
        key = build_stable(objects, tools)
        remove_old(PLACES.cache, keep=key, objects=objects.name if PLACES.keeps_objects else "")
        print(f"emulator: built in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return PLACES.cache / key / "lib"
