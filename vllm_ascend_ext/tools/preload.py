# SPDX-License-Identifier: Apache-2.0
"""Imports vLLM once for all ranks that will be forked from this process."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
from collections.abc import Iterator

from vllm_ascend_ext.integration.upstream.devices import DEVICES


def preload() -> None:
    """Imports everything a rank of a DeepSeek engine needs on this device, so that the forks start warm."""
    with _kept_for_good():
        import vllm.entrypoints.llm
        import vllm.model_executor.models.deepseek_mtp
        import vllm.model_executor.models.deepseek_v2
        import vllm.plugins
        import vllm.v1.engine.llm_engine
        import vllm.v1.executor.uniproc_executor  # noqa: F401
        from vllm.platforms import current_platform

        vllm.plugins.load_general_plugins()
        if device := DEVICES.get(current_platform.device_type):
            importlib.import_module(device.worker.rpartition(".")[0])


@contextlib.contextmanager
def _kept_for_good() -> Iterator[None]:
    """Keeps the garbage collector off while the block imports, and then off what has been imported.

    Otherwise it looks at two thirds of a million objects over and over while modules are imported, and again in
    every rank, at each of the collections that vLLM asks for when it starts: there it even copies the pages that
    the rank shares with this process. One collection at the end finds the garbage of the imports.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.collect()
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries complain of what the last collection leaves
    finally:
        if was_enabled:
            gc.enable()
