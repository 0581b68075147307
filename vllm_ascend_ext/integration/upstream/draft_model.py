# SPDX-License-Identifier: Apache-2.0
"""Tells which model a configuration of vLLM is about: the one that serves, or the draft model beside it."""

from __future__ import annotations

from typing import Any


def is_draft(vllm_config: Any) -> bool:
    """Returns whether this is the configuration that vLLM checks once more for the draft model.

    Methods without a draft model ("ngram", "custom_class") have the target's own configuration in its place (vLLM
    0.23.0, config/speculative.py): for them this is false.
    """
    speculative_config, model_config = vllm_config.speculative_config, vllm_config.model_config
    return (
        speculative_config is not None
        and model_config is speculative_config.draft_model_config
        and model_config is not speculative_config.target_model_config
    )
