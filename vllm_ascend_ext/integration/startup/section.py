# SPDX-License-Identifier: Apache-2.0
"""Reads `additional_config["ascend_ext"]` of a configuration, for a worker and for an engine core."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.config import KEY, ConfigError, ExtConfig
from vllm_ascend_ext.integration.errors import StartupError


def read_config(vllm_config: Any) -> ExtConfig | None:
    """Returns the validated `ascend_ext` section of a `VllmConfig`, or None when there is none.

    Raises StartupError with the one-line message of the ConfigError.
    """
    try:
        return ExtConfig.from_additional_config(vllm_config.additional_config or None)
    except ConfigError as error:
        raise StartupError(str(error)) from None


def prepare_features(vllm_config: Any) -> None:
    """Has the features that are on change what an engine core of this process does; None is nothing to do."""
    if KEY in (getattr(vllm_config, "additional_config", None) or {}):
        from vllm_ascend_ext.integration.registry import enabled

        for feature in enabled(read_config(vllm_config) or ExtConfig()):
            feature.prepare_engine()
