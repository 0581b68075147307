# SPDX-License-Identifier: Apache-2.0
"""Brings our section past a vllm-ascend that refuses keys of `additional_config` which it does not know.

vllm-ascend 0.30 makes an `AscendConfig` of `additional_config` in the API server, in engine cores before any
plug-in is loaded there, in workers, schedulers and connectors, and once more for a draft model's configuration. So
it is the class that leaves our key out, in each of these processes, by `open_channel` or, where that is too late,
by the section itself as it arrives (`travelling_section`). Other unknown keys fail as vllm-ascend wants.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm_ascend_ext.config import KEY
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import startup as seams
from vllm_ascend_ext.integration.upstream.versions import installed_pair


def open_channel(device_type: str) -> None:
    """Has vllm-ascend pass over our key in this process; does nothing where it takes any key, or when repeated."""
    if is_needed(device_type):
        leave_our_key_out()


def is_needed(device_type: str) -> bool:
    """Returns whether the vllm-ascend of this installation refuses our key."""
    return seams.ASCEND_CONFIG.is_used(device_type, installed_pair())


@functools.cache  # once a process
def leave_our_key_out() -> None:
    """Has vllm-ascend pass over our key in this process."""
    change.wrap(seams.ASCEND_CONFIG, None, _without_our_key)


def _without_our_key(config_class: type) -> type:
    """Returns a class in the place of vllm-ascend's, under its name, that takes our key and forgets it."""

    def initialise(config: Any, *args: Any, **keys: Any) -> None:
        keys.pop(KEY, None)
        config_class.__init__(config, *args, **keys)  # type: ignore[misc]

    copied = {name: getattr(config_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(config_class.__name__, (config_class,), {**copied, "__init__": initialise})
