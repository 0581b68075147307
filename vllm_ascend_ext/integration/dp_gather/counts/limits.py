# SPDX-License-Identifier: Apache-2.0
"""What commitments about the next pass cannot be combined with, and the schedulers that make them."""

from __future__ import annotations

from typing import Any

from vllm import envs

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

_SCHEDULERS = "vllm_ascend_ext.integration.dp_gather.counts.scheduler"
_OFF = "or set ascend_ext.dp_gather.counts_ahead to false"
# whose drafts have the target's rows in their first pass and a row a request in later ones, or no passes at all
_METHODS = ("mtp", "eagle", "eagle3", "ngram")


def check(vllm_config: Any, *, routes_itself: bool) -> None:
    """Refuse what commitments cannot be combined with; raises UnsupportedCombinationError.

    routes_itself: see `DeviceIntegration`.
    """
    speculative, parallel = vllm_config.speculative_config, vllm_config.parallel_config
    problems = {
        "is not built for vllm-ascend's exchange of counts; set it to false": routes_itself,
        f"commits to one pass after the other, and pipeline stages have several under way; set "
        f"pipeline_parallel_size to 1 {_OFF}": parallel.pipeline_parallel_size > 1,
        f"needs dummies of replicas whose new requests are held back, which vLLM's engine core runs in a process "
        f"of its own only; set VLLM_ENABLE_V1_MULTIPROCESSING to 1 {_OFF}": (
            parallel.distributed_executor_backend != "external_launcher"
            and not envs.VLLM_ENABLE_V1_MULTIPROCESSING
        ),
        f"commits to what running requests can have, which KV and encoder-cache transfers change outside the "
        f"scheduler's steps; leave kv_transfer_config and ec_transfer_config unset {_OFF}": (
            vllm_config.kv_transfer_config is not None or vllm_config.ec_transfer_config is not None
        ),
        f"pads a replica's rows up to its bound, which need not divide among tensor-parallel ranks; turn the "
        f"enable_sp pass off {_OFF}": bool(vllm_config.compilation_config.pass_config.enable_sp),
        f"brings its own scheduler; leave scheduler_cls unset {_OFF}": (
            vllm_config.scheduler_config.scheduler_cls not in (None, *_scheduler_names())
        ),
        f"knows the rows of the drafts of {', '.join(_METHODS)}, without parallel_drafting; use one of these "
        f"{_OFF}": (
            speculative is not None and (speculative.method not in _METHODS or speculative.parallel_drafting)
        ),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise UnsupportedCombinationError(f"ascend_ext.dp_gather.counts_ahead {problem}")


def use_scheduler(scheduler_config: Any) -> None:
    """Let the engine core build the scheduler that commits, by vLLM's own setting for it."""
    plain, asynchronous = _scheduler_names()
    scheduler_config.scheduler_cls = asynchronous if scheduler_config.async_scheduling else plain


def _scheduler_names() -> tuple[str, str]:
    return f"{_SCHEDULERS}.CommittingScheduler", f"{_SCHEDULERS}.CommittingAsyncScheduler"
