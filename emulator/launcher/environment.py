# SPDX-License-Identifier: Apache-2.0
"""Computes the environment of a process on the emulator. Standard library only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..startup import AUTOLOAD, AUTOLOAD_OFF, LIBRARIES
from .places import PLACES, Places

TASK_QUEUE = "TASK_QUEUE_ENABLE"
KERNELS = "VLLM_ASCEND_EXT_LIB"  # the plug-in's: where its kernels are, instead of in the package
CANN_VERSION = "8.5.0"  # as aclsysGetCANNVersion tells it (csrc/acl/system.cpp)


def real_cann(environ: Mapping[str, str]) -> str | None:
    """Returns what tells that this shell or machine has a real CANN or NPU; None where it has not."""
    if environ.get(LIBRARIES):
        return None
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH"):
        if environ.get(name):
            return f"{name}={environ[name]}"
    for folder in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if folder and os.path.exists(os.path.join(folder, "libascendcl.so")):
            return os.path.join(folder, "libascendcl.so")
    return next((str(device) for device in sorted(Path("/dev").glob("davinci[0-9]*"))), None)


def settings(environ: Mapping[str, str], places: Places = PLACES) -> dict[str, str]:
    """Returns ``environ``, in a checkout after ``source scripts/env.sh``: caches inside it, no model hub, one
    thread."""
    if places.settings is None:
        return dict(environ)
    command = ["bash", "-c", 'source "$1" >&2 && env -0', "bash", str(places.settings)]
    output = subprocess.run(command, env=dict(environ), capture_output=True, check=True).stdout.decode()
    pairs = (entry.partition("=") for entry in output.split("\0") if entry)
    return {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "PWD", "OLDPWD")}


def cann_home(libraries: Path) -> Path:
    """Makes what torch_npu looks for in ASCEND_HOME_PATH: empty folders, and the file that tells the version.

    torch_npu makes `torch.version.cann` of it (torch_npu/utils/collect_env.py).
    """
    home = libraries.parent / "cann"
    for name in ("runtime", "compiler", "opp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    version = home / "ascend_emulator_install.info"
    if not version.is_file():
        written = version.with_suffix(f".{os.getpid()}")
        written.write_text(f"version={CANN_VERSION}\n")
        written.replace(version)  # other processes read it while this one writes
    return home


def emulator_variables(environ: Mapping[str, str], libraries: Path, places: Places = PLACES) -> dict[str, str]:
    """Returns ``environ`` with the emulator in front; what the user set of TASK_QUEUE_ENABLE and EMULATOR_*
    stays."""
    variables = dict(environ)
    old = Path(variables[LIBRARIES]) if variables.get(LIBRARIES) else libraries
    for name, folder in (("PATH", places.npu.commands), ("LD_LIBRARY_PATH", libraries)):
        others = [path for path in variables.get(name, "").split(os.pathsep) if path and Path(path) != old]
        variables[name] = os.pathsep.join([str(folder), *(path for path in others if Path(path) != folder)])
    home = cann_home(libraries)
    variables |= {LIBRARIES: str(libraries), "ASCEND_HOME_PATH": str(home), "ASCEND_OPP_PATH": str(home / "opp")}
    if places.kernels:
        variables |= {KERNELS: str(libraries), "VIRTUAL_ENV": places.npu.name}
    # on the calling thread: exact lines in reports, a deterministic order of launches
    variables.setdefault(TASK_QUEUE, "0")
    for name in ("ASCEND_CUSTOM_OPP_PATH", "PYTHONHOME"):
        variables.pop(name, None)
    if variables.get(AUTOLOAD) == AUTOLOAD_OFF:
        del variables[AUTOLOAD]
    return variables
