# SPDX-License-Identifier: Apache-2.0
"""Asks a feature's rules about a configuration, real or made of plain namespaces."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import refusals
from vllm_ascend_ext.integration.registry import FEATURES
from vllm_ascend_ext.integration.upstream.devices import DEVICES


def refused(feature: str, vllm_config: Any, device_type: str = "cpu", **settings: Any) -> list[str]:
    """Returns the lines of all refusals by one feature, which is on with these settings."""
    config = ExtConfig.model_validate({feature: {"enabled": True, **settings}})
    device = DEVICES[device_type]
    deployment = Deployment(vllm_config, config, device, device.load_stack())
    (rules,) = (one.rules for one in FEATURES if one.name == feature)
    return [str(refusal) for refusal in refusals(feature, rules, deployment)]
