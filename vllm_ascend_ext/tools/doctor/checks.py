# SPDX-License-Identifier: Apache-2.0
"""Finds what can be wrong with an installation, without importing vLLM, and says how to fix it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_ascend_ext.integration.upstream import versions
from vllm_ascend_ext.tools.demo.input import bundled_model

_TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
_SHARED_MEMORY = "/dev/shm"
_LEAST_SHARED_MIB = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """Describes something broken or missing, and what to do about it."""

    problem: str
    fix: str


def distribution_version(name: str) -> str | None:
    """Returns the version of an installed distribution, None when it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def installation_problems() -> list[Problem]:
    """Returns all problems of the installation, none when it is sound."""
    return [
        *_untested_versions(),
        *_foreign_torch_companions(),
        *_missing_matplotlib(),
        *_missing_model(),
        *_little_shared_memory(),
    ]


def _untested_versions() -> Iterator[Problem]:
    if distribution_version("torch") is None:
        yield Problem("torch is not installed", "run scripts/setup.sh, or `pip install torch`")
    vllm = distribution_version("vllm")
    if vllm is None:
        yield Problem(
            "vLLM is not installed",
            "CPU: run scripts/setup.sh; NPU: `pip install 'vllm-ascend-ext[npu]'`; CUDA: "
            "`pip install 'vllm-ascend-ext[cuda]'`",
        )
    elif (problem := versions.vllm_problem(vllm)) is not None:
        yield Problem(
            problem,
            f"{versions.what_to_install().lower()}; VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM=1 starts all the same",
        )
    ascend = distribution_version("vllm-ascend")
    if ascend is not None and (problem := versions.vllm_ascend_problem(ascend)) is not None:
        yield Problem(problem, versions.what_to_install("vllm", "vllm_ascend").lower())


def _foreign_torch_companions() -> Iterator[Problem]:
    """Finds torchvision and its kin for CUDA next to a CPU torch: `import transformers` fails on torchvision::nms.

    Builds of one kind carry the same local version ("+cpu"), or none where the registry builds are for the CPU.
    """
    torch = distribution_version("torch")
    if torch is None or not _is_cpu_build():
        return
    for name in _TORCH_COMPANIONS:
        version = distribution_version(name)
        if version is not None and version.partition("+")[2] != torch.partition("+")[2]:
            yield Problem(
                f"{name} {version} is built for another torch than torch {torch}: importing transformers fails "
                "(torchvision::nms)",
                f"`pip uninstall {' '.join(_TORCH_COMPANIONS)}`; nothing here needs them",
            )


def _missing_matplotlib() -> Iterator[Problem]:
    if importlib.util.find_spec("matplotlib") is None:
        yield Problem("matplotlib is not installed: no heat map can be drawn", "`pip install matplotlib`")


def _missing_model() -> Iterator[Problem]:
    if bundled_model() is None:
        yield Problem(
            "no bundled model next to this installation",
            "use a checkout with tests/assets/tiny-deepseek, or name a model with `demo --model DIR`",
        )


def _little_shared_memory() -> Iterator[Problem]:
    try:
        free_mib = shutil.disk_usage(_SHARED_MEMORY).free >> 20
    except OSError as error:
        yield Problem(f"{_SHARED_MEMORY} cannot be used ({error.strerror})", "mount a tmpfs there")
        return
    if free_mib < _LEAST_SHARED_MIB:
        yield Problem(
            f"{_SHARED_MEMORY} has {free_mib} MiB free, less than {_LEAST_SHARED_MIB} MiB",
            "remove stale files there, or give a container more with `--shm-size 1g`",
        )


def _is_cpu_build() -> bool:
    """Returns whether the installed torch was built for the CPU alone; False when it cannot even be imported."""
    try:
        from torch import version
    except (ImportError, OSError):
        return False
    return version.cuda is None and version.hip is None
