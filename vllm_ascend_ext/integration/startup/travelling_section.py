# SPDX-License-Identifier: Apache-2.0
"""Defines our section of a configuration as it travels to processes in which vLLM loads plug-ins too late for it.

vLLM gives its configuration to the processes that it starts: our section is pickled so that unpickling it prepares
the process, before anything else there has read the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.config import KEY
from vllm_ascend_ext.integration.startup import ray_actors, section_channel
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import startup as seams


def send_section(vllm_config: Any, device_type: str) -> None:
    """Has every process that gets this configuration prepare itself, where one would be too late.

    What the configuration says, and its hash, stay the same.
    """
    whole = vllm_config.additional_config
    opens_channel = section_channel.is_needed(device_type)
    is_late = opens_channel or vllm_config.parallel_config.data_parallel_backend == "ray"
    if is_late and not isinstance(whole[KEY], TravellingSection):
        section = TravellingSection(whole[KEY], opens_channel)
        change.replace(seams.ADDITIONAL_CONFIG, {**whole, KEY: section}, vllm_config)


class TravellingSection(dict[str, Any]):
    """Holds our section of a configuration. A process in which it is unpickled is prepared by that.

    opens_channel: whether vllm-ascend refuses our key there (`section_channel`).
    """

    def __init__(self, section: dict[str, Any], opens_channel: bool) -> None:
        super().__init__(section)
        self.opens_channel = opens_channel

    def __reduce__(self) -> tuple[Callable[..., TravellingSection], tuple[dict[str, Any], bool]]:
        return _arrive, (dict(self), self.opens_channel)


def _arrive(section: dict[str, Any], opens_channel: bool) -> TravellingSection:
    if opens_channel:
        section_channel.leave_our_key_out()
    ray_actors.prepare_this_actor()
    return TravellingSection(section, opens_channel)
