# SPDX-License-Identifier: Apache-2.0
"""Prepares engine cores that are Ray actors, which vLLM starts before it loads any plug-in there.

vLLM gives them its configuration: our section is pickled so that unpickling it in an actor prepares the engine
core that the actor is about to build.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.config import KEY
from vllm_ascend_ext.integration.ranks.interface import choose_gloo_interface_of_actor
from vllm_ascend_ext.integration.server import shutdown
from vllm_ascend_ext.integration.startup.section import prepare_features
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import startup as seams


def send_section(vllm_config: Any) -> None:
    """Has every actor that gets this configuration prepare itself; what it says, and its hash, stay the same."""
    whole = vllm_config.additional_config
    if vllm_config.parallel_config.data_parallel_backend == "ray" and not isinstance(whole[KEY], ActorSection):
        change.replace(seams.ADDITIONAL_CONFIG, {**whole, KEY: ActorSection(whole[KEY])}, vllm_config)


class ActorSection(dict[str, Any]):
    """Holds our section of a configuration. An actor in which it is unpickled prepares its engine core."""

    def __reduce__(self) -> tuple[Callable[..., ActorSection], tuple[dict[str, Any]]]:
        return _arrive, (dict(self),)


def _arrive(section: dict[str, Any]) -> ActorSection:
    from vllm.ray.lazy_utils import is_in_ray_actor

    if is_in_ray_actor():
        _prepare_before_building()
    return ActorSection(section)


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
