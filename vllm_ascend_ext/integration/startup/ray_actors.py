# SPDX-License-Identifier: Apache-2.0
"""Prepares engine cores that are Ray actors, which vLLM starts before it loads any plug-in there.

Our section prepares them as it arrives with the configuration (`travelling_section`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.ranks.interface import choose_gloo_interface_of_actor
from vllm_ascend_ext.integration.server import shutdown
from vllm_ascend_ext.integration.startup.section import prepare_features
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import startup as seams


def prepare_this_actor() -> None:
    """Has the engine core that this process is about to build prepared, where the process is a Ray actor."""
    if "ray" not in sys.modules:  # which takes its time to import
        return
    from vllm.ray.lazy_utils import is_in_ray_actor

    if is_in_ray_actor():
        _prepare_before_building()


@functools.cache  # once a process
def _prepare_before_building() -> None:
    change.wrap(seams.ENGINE_ACTOR, None, _preparing)


def _preparing(build: Callable[..., None]) -> Callable[..., None]:
    def prepare_and_build(core: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        choose_gloo_interface_of_actor(vllm_config.parallel_config)
        shutdown.prepare_engine_core(vllm_config.parallel_config)
        prepare_features(vllm_config)
        build(core, vllm_config, *args, **kwargs)

    return prepare_and_build
