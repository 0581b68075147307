# SPDX-License-Identifier: Apache-2.0
"""Lists the pairs of vLLM and vllm-ascend that tests have run, and checks the installed versions against them."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from dataclasses import dataclass

from vllm_ascend_ext import envs
from vllm_ascend_ext.integration.errors import IncompatibleVllmError

logger = logging.getLogger(__name__)


_ONLY_ASCEND = ("npu",)


@dataclass(frozen=True, slots=True)
class Pair:
    """Describes a version of vLLM with the vllm-ascend that is made for it.

    vllm: version of vLLM, which names the pair everywhere else.
    vllm_ascend: version of vllm-ascend.
    devices: kinds of device that it is for; on others that vLLM is refused.
    unverified: features that have not run with this pair: they are refused there, and their seams not looked at.
    """

    vllm: str
    vllm_ascend: str
    devices: tuple[str, ...] = ("cpu", "cuda", "npu")
    unverified: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns both versions in words."""
        return f"vllm-ascend {self.vllm_ascend} with vLLM {self.vllm}"


PAIR_0_23 = Pair("0.23.0", "0.23.0.post1")
PAIR_0_30 = Pair("0.30.0", "0.30.0rc2", devices=_ONLY_ASCEND, unverified=("dp_gather", "attn_scatter"))
PAIRS = (PAIR_0_23, PAIR_0_30)


def installed_pair() -> Pair:
    """Returns the pair that is installed; of untested versions the newest pair that is not newer, else the first.

    Pairs that are for the NPU alone are no choice where vllm-ascend is not installed.
    """
    pairs = _pairs_for_this_machine()
    version = _installed("vllm")
    older = [pair for pair in pairs if version is not None and _release(pair.vllm) <= _release(version)]
    return older[-1] if older else pairs[0]


def named_pair(name: str) -> Pair:
    """Returns the pair of which `name` is the version of vLLM or of vllm-ascend; raises ValueError for others."""
    for pair in PAIRS:
        if _public(name) in (pair.vllm, pair.vllm_ascend):
            return pair
    raise ValueError(f"{name} is of no tested pair; tested: {', '.join(map(str, PAIRS))}")


def installed_vllm() -> str | None:
    """Returns the installed version of vLLM without its local suffix, None without vLLM."""
    version = _installed("vllm")
    return None if version is None else _public(version)


def check_vllm_version() -> str:
    """Returns the installed vLLM version.

    Raises IncompatibleVllmError when vLLM is missing, or not tested and not allowed by
    VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM. A local suffix ("0.23.0+empty") does not count.
    """
    version = _installed("vllm")
    if version is None:
        raise IncompatibleVllmError(f"vLLM is not installed; {what_to_install().lower()} (docs/install.md)")
    if (problem := vllm_problem(version)) is not None:
        _refuse(problem)
    return version


def check_vllm_ascend_version() -> str | None:
    """Returns the installed vllm-ascend version, or None; raises as `check_vllm_version` does.

    A tested version is refused as well beside another vLLM than its own.
    """
    version = _installed("vllm-ascend")
    if version is not None and (problem := vllm_ascend_problem(version)) is not None:
        _refuse(problem)
    return version


def vllm_problem(version: str) -> str | None:
    """Returns what is wrong with a version of vLLM on this machine, None for a tested one."""
    tested = [pair.vllm for pair in _pairs_for_this_machine()]
    if _public(version) in tested:
        return None
    return f"vLLM {version} is not a tested version; tested: {', '.join(tested)}"


def vllm_ascend_problem(version: str) -> str | None:
    """Returns what is wrong with a version of vllm-ascend beside the installed vLLM, None for a tested pair."""
    if _public(version) == installed_pair().vllm_ascend:
        return None
    beside = _installed("vllm")
    found = f"vllm-ascend {version}" + ("" if beside is None else f" with vLLM {beside}")
    return f"{found} is not a tested pair; tested: {', '.join(map(str, PAIRS))}"


def what_to_install(*packages: str) -> str:
    """Returns the sentence that ends an error about symbols of these packages ("vllm", "vllm_ascend")."""
    pair = installed_pair()
    wanted = [f"vllm=={pair.vllm}"] if set(packages) != {"vllm_ascend"} else []
    if "vllm_ascend" in packages:
        wanted.append(f"vllm-ascend=={pair.vllm_ascend}")
    return f"Install {' and '.join(wanted)}"


def _pairs_for_this_machine() -> list[Pair]:
    has_ascend = _installed("vllm-ascend") is not None
    return [pair for pair in PAIRS if has_ascend or pair.devices != _ONLY_ASCEND]


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    return version.split("+")[0]


def _release(version: str) -> tuple[int, ...]:
    """Returns the numbers by which releases of vLLM follow each other: 0.23.0 and 0.23.0rc1 are one."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _refuse(problem: str) -> None:
    message = (
        f"{problem}. Install one of these, or set VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM=1 to go on at your own risk"
    )
    if not envs.VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM:
        raise IncompatibleVllmError(message)
    logger.warning("%s (allowed by VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM)", message)
