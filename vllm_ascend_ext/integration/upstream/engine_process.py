# SPDX-License-Identifier: Apache-2.0
"""Tells the processes that vLLM starts for an engine from the one in which the engine was configured."""

from __future__ import annotations

import multiprocessing


def is_part_of_an_engine() -> bool:
    """Returns whether vLLM started this process for an engine whose configuration has been checked before.

    These are its engine cores, workers and further API servers. They make or complete the configuration once more,
    at a time when other parts of the same engine may be at work.
    """
    process = multiprocessing.current_process()
    if multiprocessing.parent_process() is None:
        return False
    # vLLM gives a configuration as an argument to engine cores and workers, and to API servers a name
    return "vllm_config" in getattr(process, "_kwargs", {}) or process.name.startswith("ApiServer_")
