# SPDX-License-Identifier: Apache-2.0
"""The only place that knows vLLM versions, and the tool by which vLLM's modules are changed.

A symbol that we replace is a `Patch` row: what, why, where upstream stands, and when the row goes away. A row
whose target is gone or has another signature is refused at start-up: a patch never misses in silence. (Beside the
rows there are vLLM's own extension points, and the platform's start-up hook that `activation` wraps.)
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext import envs
from vllm_ascend_ext.integration.errors import IncompatibleVllmError

logger = logging.getLogger(__name__)

TESTED_VLLM = ("0.23.0",)
TESTED_VLLM_ASCEND = ("0.23.0.post1",)


@dataclass(frozen=True, slots=True)
class Patch:
    """One attribute of a vLLM module that we replace.

    target: "package.module:attribute", attribute possibly dotted ("Class.method").
    replacement: the object put there.
    reason, upstream, remove_when: why it is needed, the upstream source or issue, and what makes it obsolete.
    parameters: parameter names the target must have (a call site's contract); None = not a function.
    """

    target: str
    replacement: Any
    reason: str
    upstream: str
    remove_when: str
    parameters: tuple[str, ...] | None = None


def check_vllm_version() -> str:
    """Return the installed vLLM version.

    Raises IncompatibleVllmError when vLLM is missing, or not tested and not allowed by
    VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM. A local suffix ("0.23.0+empty") does not count.
    """
    version = _installed("vllm")
    if version is None:
        raise IncompatibleVllmError(
            f"vLLM is not installed; install vllm=={TESTED_VLLM[-1]} (README, 'Install elsewhere')"
        )
    _check_tested("vLLM", version, TESTED_VLLM)
    return version


def check_vllm_ascend_version() -> str | None:
    """Likewise for vllm-ascend; None where it is not installed."""
    version = _installed("vllm-ascend")
    if version is not None:
        _check_tested("vllm-ascend", version, TESTED_VLLM_ASCEND)
    return version


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


def apply_patches(patches: Iterable[Patch]) -> None:
    """Check all rows, then apply them; applying a row twice changes nothing.

    Raises IncompatibleVllmError naming every row whose target is missing or has another signature; then none is
    applied.
    """
    rows = [(patch, *_resolve(patch)) for patch in patches]
    problems = [problem for _, _, _, problem in rows if problem]
    if problems:
        raise IncompatibleVllmError(
            "this vLLM differs from the tested one where vllm-ascend-ext changes it: "
            + "; ".join(problems)
            + f". Install vllm=={TESTED_VLLM[-1]}"
        )
    for patch, owner, name, _ in rows:
        if getattr(owner, name) is not patch.replacement:
            setattr(owner, name, patch.replacement)


def problem_with(patch: Patch) -> str | None:
    """What keeps a row from being applied to this vLLM, or None; changes nothing."""
    return _resolve(patch)[2]


@contextmanager
def rebind(target: str, replacement: object) -> Iterator[None]:
    """Replace one module attribute for the duration of a block (a class that upstream looks up by name)."""
    patch = Patch(target, replacement, "", "", "")
    owner, name, problem = _resolve(patch)
    if problem:
        raise IncompatibleVllmError(f"{problem}. Install vllm=={TESTED_VLLM[-1]}")
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _resolve(patch: Patch) -> tuple[Any, str, str | None]:
    """(owner, attribute name, problem or None) of a row's target."""
    module_name, _, path = patch.target.partition(":")
    *parents, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module_name)
        for parent in parents:
            owner = getattr(owner, parent)
        current = getattr(owner, name)
    except (ImportError, AttributeError) as error:
        return None, name, f"{patch.target} is gone ({error})"
    if patch.parameters is None or current is patch.replacement:
        return owner, name, None
    found = tuple(inspect.signature(current).parameters)
    if missing := [p for p in patch.parameters if p not in found]:
        return owner, name, f"{patch.target} has no parameter {', '.join(missing)} (it has {', '.join(found)})"
    return owner, name, None
