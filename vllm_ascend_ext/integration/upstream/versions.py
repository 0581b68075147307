# SPDX-License-Identifier: Apache-2.0
"""Checks the installed versions of vLLM and vllm-ascend; no other module knows which ones are tested."""

from __future__ import annotations

import importlib.metadata
import logging

from vllm_ascend_ext import envs
from vllm_ascend_ext.integration.errors import IncompatibleVllmError

logger = logging.getLogger(__name__)

TESTED_VLLM = ("0.23.0",)
TESTED_VLLM_ASCEND = ("0.23.0.post1",)


def check_vllm_version() -> str:
    """Returns the installed vLLM version.

    Raises IncompatibleVllmError when vLLM is missing, or not tested and not allowed by
    VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM. A local suffix ("0.23.0+empty") does not count.
    """
    version = _installed("vllm")
    if version is None:
        raise IncompatibleVllmError(f"vLLM is not installed; install vllm=={TESTED_VLLM[-1]} (docs/install.md)")
    _check_tested("vLLM", version, TESTED_VLLM)
    return version


def check_vllm_ascend_version() -> str | None:
    """Returns the installed vllm-ascend version, or None; raises as `check_vllm_version` does."""
    version = _installed("vllm-ascend")
    if version is not None:
        _check_tested("vllm-ascend", version, TESTED_VLLM_ASCEND)
    return version


def what_to_install(*packages: str) -> str:
    """Returns the sentence that ends an error about symbols of these packages ("vllm", "vllm_ascend")."""
    wanted = [f"vllm=={TESTED_VLLM[-1]}"] if set(packages) != {"vllm_ascend"} else []
    if "vllm_ascend" in packages:
        wanted.append(f"vllm-ascend=={TESTED_VLLM_ASCEND[-1]}")
    return f"Install {' and '.join(wanted)}"


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_tested(name: str, version: str, tested: tuple[str, ...]) -> None:
    if version.split("+")[0] in tested:
        return
    message = (
        f"{name} {version} is not a tested version; tested: {', '.join(tested)}. Install one of these, or "
        "set VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM=1 to go on at your own risk"
    )
    if not envs.VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM:
        raise IncompatibleVllmError(message)
    logger.warning("%s (allowed by VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM)", message)
