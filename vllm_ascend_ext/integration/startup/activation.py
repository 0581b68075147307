# SPDX-License-Identifier: Apache-2.0
"""From vLLM's configuration to our worker: read `additional_config["ascend_ext"]`, check it, choose the worker."""

from __future__ import annotations

import functools
import logging
from typing import Any

from vllm_ascend_ext.config import ConfigError, ExtConfig
from vllm_ascend_ext.integration.errors import StartupError, UnsupportedCombinationError, print_plain_errors
from vllm_ascend_ext.integration.server import shutdown
from vllm_ascend_ext.integration.upstream import patches
from vllm_ascend_ext.integration.upstream.devices import DEVICES, DeviceIntegration

logger = logging.getLogger(__name__)


def activate(platform: Any) -> None:
    """Let the platform's `check_and_update_config` end in `configure`; with nothing configured, a dict lookup.

    The platform's own hook is the one place that runs after vLLM has filled in `worker_cls` and before any
    worker exists, on every device.
    """
    print_plain_errors()
    _log_where_vllm_logs()
    shutdown.end_with_parent()
    platform_class = type(platform)
    if platform_class.__module__.startswith("vllm_ascend_ext."):
        platform.apply_patches()
    original = platform_class.check_and_update_config
    if getattr(original, "ends_in_ascend_ext", False):
        return

    @functools.wraps(original)
    def check_and_update_config(vllm_config: Any) -> None:
        original(vllm_config)
        configure(vllm_config, platform.device_type)

    check_and_update_config.ends_in_ascend_ext = True  # type: ignore[attr-defined]
    platform_class.check_and_update_config = staticmethod(check_and_update_config)


def _log_where_vllm_logs() -> None:
    """Send our records to vLLM's handlers, with its level: vLLM configures only its own logger, not the root."""
    ours, theirs = logging.getLogger("vllm_ascend_ext"), logging.getLogger("vllm")
    if theirs.handlers and not ours.handlers:
        ours.handlers = list(theirs.handlers)
        ours.setLevel(theirs.level)
        ours.propagate = False


def read_config(vllm_config: Any) -> ExtConfig | None:
    """The validated `ascend_ext` section of a `VllmConfig`; None when there is none.

    Raises StartupError with the one-line message of the ConfigError.
    """
    try:
        return ExtConfig.from_additional_config(vllm_config.additional_config or None)
    except ConfigError as error:
        raise StartupError(str(error)) from None


def configure(vllm_config: Any, device_type: str) -> None:
    """Check our section against the rest of the configuration and put our worker in place.

    Raises StartupError: unknown key, wrong type, untested vLLM, or a combination that cannot work.
    """
    config = read_config(vllm_config)
    if config is None:
        return
    patches.check_vllm_version()
    patches.check_vllm_ascend_version()
    if device_type not in DEVICES:
        raise UnsupportedCombinationError(
            f"ascend_ext runs on {', '.join(sorted(DEVICES))}, not on '{device_type}'; remove "
            "additional_config['ascend_ext']"
        )
    device = DEVICES[device_type]
    parallel_config = vllm_config.parallel_config
    if parallel_config.worker_cls not in (device.default_worker, device.worker):
        raise UnsupportedCombinationError(
            f"ascend_ext brings its own worker and cannot work with {parallel_config.worker_cls}; leave "
            "worker_cls at 'auto' (and other plug-ins' workers off) or remove additional_config['ascend_ext']"
        )
    if vllm_config.use_v2_model_runner and not device.falls_back_to_first_runner:
        raise UnsupportedCombinationError(
            "ascend_ext works in vLLM's V1 model runner, and vLLM has chosen its V2 runner for this model; set "
            "VLLM_USE_V2_MODEL_RUNNER=0"
        )
    _check_features(vllm_config, config, device)
    patches.apply_patches(shutdown.patches())
    parallel_config.worker_cls = device.worker
    logger.info("ascend_ext: worker %s, features on: %s", device.worker, ", ".join(config.features()) or "none")


def _check_features(vllm_config: Any, config: ExtConfig, device: DeviceIntegration) -> None:
    if config.eplb_load.enabled:
        from vllm_ascend_ext.integration.eplb_load import limits as eplb_load_limits

        eplb_load_limits.check(vllm_config, device, config.eplb_load)
    if config.dp_gather.enabled:
        from vllm_ascend_ext.integration.dp_gather import limits as dp_gather_limits
        from vllm_ascend_ext.integration.dp_gather.counts import limits as counts_ahead_limits

        dp_gather_limits.check(
            vllm_config, config.dp_gather, routes_itself=device.routes_itself, verified=device.dp_gather
        )
        if config.dp_gather.counts_ahead:
            counts_ahead_limits.check(vllm_config, routes_itself=device.routes_itself)
            counts_ahead_limits.use_scheduler(vllm_config.scheduler_config)
    if config.attn_scatter.enabled:
        from vllm_ascend_ext.integration.attn_scatter import limits as attn_scatter_limits

        attn_scatter_limits.check(vllm_config, config.attn_scatter, verified=device.attn_scatter)
    if config.mtp_output.enabled:
        from vllm_ascend_ext.integration.mtp_output import limits as mtp_output_limits

        mtp_output_limits.check(vllm_config, config.mtp_output)
