# SPDX-License-Identifier: Apache-2.0
"""From vLLM's configuration to our worker: read `additional_config["ascend_ext"]`, check it, choose the worker."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext.config import ConfigError, EplbLoadConfig, ExtConfig
from vllm_ascend_ext.integration import compat, faults
from vllm_ascend_ext.integration.drafts import is_draft
from vllm_ascend_ext.integration.errors import StartupError, UnsupportedCombinationError, print_plain_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceIntegration:
    """How we stand on one kind of device.

    worker: our worker (two lines over the device's own, see workers/).
    default_worker: what the platform puts into `worker_cls` for "auto"; anything else is the user's own.
    falls_back_to_first_runner: the device's worker builds the V1 model runner whatever vLLM chose.
    routes_itself: layers route without vLLM's router objects (see `ascend_routing`).
    device_collectives: NCCL or HCCL sums on the device.
    attn_scatter: the layers are vLLM's own, which scattered attention input takes apart.
    dp_gather: the gather by plan has run there.
    """

    worker: str
    default_worker: str
    falls_back_to_first_runner: bool = False
    routes_itself: bool = False
    device_collectives: bool = True
    attn_scatter: bool = True
    dp_gather: bool = True


DEVICES = {
    "npu": DeviceIntegration(
        "vllm_ascend_ext.integration.workers.npu.ExtNPUWorker",
        "vllm_ascend.worker.worker.NPUWorker",
        falls_back_to_first_runner=True,
        routes_itself=True,
        attn_scatter=False,
    ),
    "cuda": DeviceIntegration(
        "vllm_ascend_ext.integration.workers.cuda.ExtCUDAWorker",
        "vllm.v1.worker.gpu_worker.Worker",
        dp_gather=False,
    ),
    "cpu": DeviceIntegration(
        "vllm_ascend_ext.integration.workers.cpu.ExtCPUWorker",
        "vllm_ascend_ext.integration.cpu_platform.worker.TorchCPUWorker",
        device_collectives=False,
    ),
}


def activate(platform: Any) -> None:
    """Let the platform's `check_and_update_config` end in `configure`; with nothing configured, a dict lookup.

    The platform's own hook is the one place that runs after vLLM has filled in `worker_cls` and before any
    worker exists, on every device.
    """
    print_plain_errors()
    _log_where_vllm_logs()
    faults.end_with_parent()
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
    compat.check_vllm_version()
    compat.check_vllm_ascend_version()
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
    if config.eplb_load.enabled:
        check_expert_load(vllm_config, device, config.eplb_load)
    if config.dp_gather.enabled:
        from vllm_ascend_ext.integration import counts_ahead_limits, dp_gather_limits

        dp_gather_limits.check(
            vllm_config, config.dp_gather, routes_itself=device.routes_itself, verified=device.dp_gather
        )
        if config.dp_gather.counts_ahead:
            counts_ahead_limits.check(vllm_config, routes_itself=device.routes_itself)
            counts_ahead_limits.use_scheduler(vllm_config.scheduler_config)
    if config.attn_scatter.enabled:
        from vllm_ascend_ext.integration import attn_scatter_limits

        attn_scatter_limits.check(vllm_config, config.attn_scatter, verified=device.attn_scatter)
    if config.mtp_output.enabled:
        from vllm_ascend_ext.integration import mtp_output_limits

        mtp_output_limits.check(vllm_config, config.mtp_output)
    compat.apply_patches(faults.patches())
    parallel_config.worker_cls = device.worker
    logger.info("ascend_ext: worker %s, features on: %s", device.worker, ", ".join(config.features()) or "none")


def check_expert_load(vllm_config: Any, device: DeviceIntegration, config: EplbLoadConfig) -> None:
    """Refuse what expert-load collection cannot be combined with; raises UnsupportedCombinationError."""
    if vllm_config.parallel_config.enable_elastic_ep:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load sums over a fixed set of ranks; turn enable_elastic_ep off"
        )
    if config.aggregation == "device" and not device.device_collectives:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load.aggregation='device' needs collectives on the device, which the CPU has not; "
            "set it to 'host'"
        )
    model_config, speculative_config = vllm_config.model_config, vllm_config.speculative_config
    if device.routes_itself:
        from vllm_ascend_ext.integration import ascend_routing

        ascend_routing.check(vllm_config)
    if vllm_config.parallel_config.use_ubatching:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load cannot tell micro-batches apart; turn enable_dbo off and leave ubatch_size at 0"
        )
    if model_config is None or is_draft(vllm_config):
        return  # a draft model may well be dense
    if speculative_config is not None and speculative_config.method == "ngram_gpu":
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load and speculative method 'ngram_gpu' do not work together: that proposer "
            "changes the number of scheduled tokens on the device; use 'ngram'"
        )
    if not model_config.is_moe:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load counts routed experts, but {model_config.model} has none; use a "
            "mixture-of-experts model or set eplb_load.enabled to false"
        )
    if config.rebalance and device.routes_itself:
        from vllm_ascend_ext.integration import ascend_rebalance

        ascend_rebalance.check(config)
    elif config.rebalance:
        from vllm_ascend_ext.integration import rebalance

        rebalance.check(vllm_config, config.rebalance_lead)
    if model_config.enable_return_routed_experts:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load and enable_return_routed_experts both need vLLM's one routing hook; turn one off"
        )
