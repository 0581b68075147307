# SPDX-License-Identifier: Apache-2.0
"""Tells an engine at work, and the processes that vLLM starts for it, from what configures it first."""

from __future__ import annotations

import multiprocessing
from typing import Any

from vllm.config import get_current_vllm_config_or_none


def is_part_of_an_engine() -> bool:
    """Returns whether a configuration that is made now is of an engine whose own has been checked before.

    That is so in its engine cores, workers and further API servers, which make or complete the configuration once
    more, and in any rank that is loading its model, where vLLM derives the drafter's configuration from it (under
    `external_launcher` ranks are no processes of vLLM's). Other parts of the same engine may be at work then.
    """
    if get_current_vllm_config_or_none() is not None:
        return True
    process = multiprocessing.current_process()
    if multiprocessing.parent_process() is None:
        return False
    # vLLM gives a configuration to engine cores and workers, and to API servers a name
    return "vllm_config" in arguments_of_this_process() or process.name.startswith("ApiServer_")


def arguments_of_this_process() -> dict[str, Any]:
    """Returns what vLLM gave this process when it started it: a `vllm_config` to engine cores and workers only."""
    return getattr(multiprocessing.current_process(), "_kwargs", {})
