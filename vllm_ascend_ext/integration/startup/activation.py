# SPDX-License-Identifier: Apache-2.0
"""Reads `additional_config["ascend_ext"]`, has it checked, and puts our worker in place."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.errors import StartupError, UnsupportedCombinationError, print_plain_errors
from vllm_ascend_ext.integration.server import shutdown
from vllm_ascend_ext.integration.startup import section_channel
from vllm_ascend_ext.integration.startup.section import prepare_features
from vllm_ascend_ext.integration.upstream.engine_process import arguments_of_this_process
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import startup as seams

logger = logging.getLogger(__name__)


def activate(platform: Any) -> None:
    """Makes the platform's `check_and_update_config` end in `configure`.

    The platform's own hook is the one place that runs after vLLM has filled in `worker_cls` and before any
    worker exists, on every device. Where nothing is configured, all that is added to it is a dict lookup.
    """
    print_plain_errors()
    _log_where_vllm_logs()
    shutdown.end_with_parent()
    section_channel.open_channel(platform.device_type)
    _prepare_engine()
    platform_class = type(platform)
    if platform_class.__module__.startswith("vllm_ascend_ext."):
        platform.replace_for_configuration()
    if getattr(platform_class.check_and_update_config, "ends_in_ascend_ext", False):
        return

    def ending_in_ours(original: Any) -> Any:
        @functools.wraps(original)
        def check_and_update_config(vllm_config: Any) -> None:
            refused: Sequence[str] = ()
            try:
                original(vllm_config)
            except UnsupportedCombinationError as error:  # of our own CPU platform, reported below
                refused = str(error).splitlines()
            configure(vllm_config, platform.device_type, refused)

        check_and_update_config.ends_in_ascend_ext = True  # type: ignore[attr-defined]
        return staticmethod(check_and_update_config)

    change.wrap(seams.CONFIGURATION_HOOK, platform_class, ending_in_ours)


def _prepare_engine() -> None:
    """Prepares an engine core that vLLM runs in a process of its own; `checks.settle` prepares all others."""
    prepare_features(arguments_of_this_process().get("vllm_config"))


def _log_where_vllm_logs() -> None:
    """Sends our records to vLLM's handlers, at vLLM's level: vLLM configures its own logger only, not the root."""
    ours, theirs = logging.getLogger("vllm_ascend_ext"), logging.getLogger("vllm")
    if theirs.handlers and not ours.handlers:
        ours.handlers = list(theirs.handlers)
        ours.setLevel(theirs.level)
        ours.propagate = False


def configure(vllm_config: Any, device_type: str, refused: Sequence[str] = ()) -> None:
    """Checks our section against the rest of the configuration and puts our worker in place.

    refused: problems that the platform has found already, a line each.

    Raises StartupError with a line for each problem, all at once: unknown keys, wrong types, an untested vLLM,
    combinations that cannot work.
    """
    config, problems = ExtConfig.salvage(vllm_config.additional_config or None)
    errors: list[StartupError] = [StartupError(line) for line in problems]
    errors += [UnsupportedCombinationError(line) for line in refused]
    if config is not None:
        from vllm_ascend_ext.integration.startup import checks

        errors += checks.problems_of(vllm_config, config, device_type, problems)
        if not errors:
            checks.settle(vllm_config, config, device_type)
    if errors:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else StartupError
        raise kind("\n".join(dict.fromkeys(map(str, errors))))
