# SPDX-License-Identifier: Apache-2.0
"""Checks a configuration that has our section, and settles it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from vllm_ascend_ext.config import KEY, ExtConfig
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.errors import StartupError, UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks.interface import choose_gloo_interface
from vllm_ascend_ext.integration.refusal import Refusal, refusals
from vllm_ascend_ext.integration.registry import enabled
from vllm_ascend_ext.integration.server import launcher, ray_engines, shutdown
from vllm_ascend_ext.integration.startup import pair_limits, worker_limits
from vllm_ascend_ext.integration.startup.travelling_section import send_section
from vllm_ascend_ext.integration.upstream import versions
from vllm_ascend_ext.integration.upstream.devices import DEVICES
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.check import check_installed
from vllm_ascend_ext.integration.upstream.seams.rows.startup import WORKER_CLASS

logger = logging.getLogger(__name__)


def problems_of(
    vllm_config: Any, config: ExtConfig, device_type: str, wrong: Sequence[str] = ()
) -> list[StartupError]:
    """Returns all that keeps this configuration from starting, but for what is wrong with our section itself.

    Args:
        wrong: lines about what is wrong with the section (`ExtConfig.salvage`). `config` has defaults there, by
            which nothing is refused.
    """
    errors: list[StartupError] = []
    seams = functools.partial(check_installed, device_type, config.features())
    for check in (versions.check_vllm_version, versions.check_vllm_ascend_version, seams):
        try:
            check()
        except StartupError as error:
            errors.append(error)
    if device_type not in DEVICES:
        return [
            *errors,
            UnsupportedCombinationError(
                f"ascend_ext runs on {', '.join(sorted(DEVICES))}, not on '{device_type}'; remove "
                "additional_config['ascend_ext']"
            ),
        ]
    try:
        refused = refusals_of(vllm_config, config, device_type)
    except Exception:
        if not errors:
            raise
        return errors  # the rules do not know this vLLM
    refused = [refusal for refusal in refused if not _judges_a_default(refusal, wrong)]
    return errors + [UnsupportedCombinationError(str(refusal)) for refusal in refused]


def _judges_a_default(refusal: Refusal, wrong: Sequence[str]) -> bool:
    """Returns whether a refusal is about a section of ours in which something else is wrong."""
    sections = {line.split(":")[0].split(".")[1] for line in wrong if line.startswith(f"{KEY}.")}
    names = [name.strip().partition(".") for name in refusal.setting.split(",")]
    return any(section in sections and key not in ("", "enabled") for section, _, key in names)


def refusals_of(vllm_config: Any, config: ExtConfig, device_type: str) -> list[Refusal]:
    """Returns everything that the worker and the enabled features refuse in a configuration.

    device_type: one of `DEVICES`. Nothing is refused in the configuration that vLLM makes for a draft model: the
    engine's own has been checked before.
    """
    device = DEVICES[device_type]
    return refusals_in(Deployment(vllm_config, config, device, device.load_stack()))


def refusals_in(deployment: Deployment) -> list[Refusal]:
    """Returns everything that the worker and the enabled features refuse in a deployment (see `refusals_of`)."""
    if deployment.is_draft:
        return []
    found = refusals("", (*worker_limits.RULES, *pair_limits.RULES), deployment)
    for feature in enabled(deployment.config):
        if feature.name in deployment.stack.unverified:  # its rules do not know this pair
            found.append(pair_limits.unverified_feature(feature.name, deployment.stack.pair))
        else:
            found += refusals(feature.name, feature.rules, deployment)
    return found


def settle(vllm_config: Any, config: ExtConfig, device_type: str) -> None:
    """Changes what has to be changed for a configuration that nothing speaks against."""
    device = DEVICES[device_type]
    deployment = Deployment(vllm_config, config, device, device.load_stack())
    for feature in enabled(config):
        feature.configure(deployment)
        feature.prepare_engine()
    choose_gloo_interface(vllm_config.parallel_config)
    shutdown.replace_serve_http()
    launcher.replace_ends()
    ray_engines.replace_ends()
    change.replace(WORKER_CLASS, device.worker, vllm_config.parallel_config)
    send_section(vllm_config, device_type)
    logger.info("ascend_ext: worker %s, features on: %s", device.worker, ", ".join(config.features()) or "none")
