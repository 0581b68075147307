# SPDX-License-Identifier: Apache-2.0
"""Checks the seams against the installed vLLM and vllm-ascend, before anything of them runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.seams.seam import ALWAYS, Seam
from vllm_ascend_ext.integration.upstream.seams.sources import Sources
from vllm_ascend_ext.integration.upstream.seams.table import SEAMS
from vllm_ascend_ext.integration.upstream.versions import Pair, installed_pair, what_to_install


def needed(device_type: str, features: Iterable[str], pair: Pair) -> tuple[Seam, ...]:
    """Returns the rows of a device and pair that some features, or all configurations, rely on."""
    wanted = {*features, *ALWAYS}
    return tuple(seam for seam in SEAMS if seam.is_used(device_type, pair) and seam.feature in wanted)


def check(device_type: str, features: Iterable[str], sources: Sources, pair: Pair | None = None) -> None:
    """Raises IncompatibleVllmError that names every seam which the packages in `sources` lack.

    A package that is not there at all has no rows to check: without vllm-ascend there is no NPU.

    Args:
        device_type: a key of `DEVICES`.
        features: configuration keys that are on.
        sources: the packages.
        pair: the pair of versions in `sources`; by default the installed one.
    """
    wanted = needed(device_type, features, pair or installed_pair())
    rows = [seam for seam in wanted if sources.has_package(seam.package)]
    problems = {seam: problem for seam in rows if (problem := sources.problem_with(seam)) is not None}
    if problems:
        raise IncompatibleVllmError(
            "this vLLM differs from the tested one where vllm-ascend-ext relies on it: "
            + "; ".join(dict.fromkeys(problems.values()))
            + f". {what_to_install(*(seam.package for seam in problems))}"
        )


@functools.cache
def check_installed(device_type: str, features: tuple[str, ...]) -> None:
    """Checks the installed packages once in a process; raises as `check` does."""
    check(device_type, features, Sources())
