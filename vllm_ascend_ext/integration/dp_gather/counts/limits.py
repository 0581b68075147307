# SPDX-License-Identifier: Apache-2.0
"""Lists what commitments about the next pass cannot work with, and chooses the scheduler that makes them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows.row_counts import SCHEDULER_CLASS

_SCHEDULERS = "vllm_ascend_ext.integration.dp_gather.counts.scheduler"
_OFF = "or set ascend_ext.dp_gather.counts_ahead to false"
# methods whose draft model has the target's rows in its first pass and one row a request in later ones, or no pass
_METHODS = ("mtp", "eagle", "eagle3", "ngram")


def _where_on(refuses: Callable[[Deployment], object], deployment: Deployment) -> object:
    return deployment.config.dp_gather.counts_ahead and refuses(deployment)


def _has_no_core_process(deployment: Deployment) -> bool:
    from vllm import envs

    launched = deployment.parallel.distributed_executor_backend == "external_launcher"
    return not launched and not envs.VLLM_ENABLE_V1_MULTIPROCESSING


def _transfers_caches(deployment: Deployment) -> bool:
    vllm_config = deployment.vllm_config
    return vllm_config.kv_transfer_config is not None or vllm_config.ec_transfer_config is not None


def _has_other_drafts(deployment: Deployment) -> bool:
    speculative = deployment.vllm_config.speculative_config
    return speculative is not None and (speculative.method not in _METHODS or speculative.parallel_drafting)


RULES = tuple(
    Rule(
        setting,
        why,
        instead,
        functools.partial(_where_on, refuses),
        key="counts_ahead",
    )
    for setting, why, instead, refuses in (
        (
            "dp_gather.counts_ahead",
            "is not built for vllm-ascend's exchange of counts",
            "set counts_ahead to false",
            lambda d: d.stack.name != "vllm",
        ),
        (
            "pipeline_parallel_size",
            "commits to one pass after the other, and pipeline stages have several under way",
            f"set pipeline_parallel_size to 1 {_OFF}",
            lambda d: d.parallel.pipeline_parallel_size > 1,
        ),
        (
            "VLLM_ENABLE_V1_MULTIPROCESSING",
            "needs dummies of replicas whose new requests are held back, which vLLM's engine core runs in a "
            "process of its own only",
            f"set VLLM_ENABLE_V1_MULTIPROCESSING to 1 {_OFF}",
            _has_no_core_process,
        ),
        (
            "kv_transfer_config, ec_transfer_config",
            "commits to what running requests can have, which KV and encoder-cache transfers change outside the "
            "scheduler's steps",
            f"leave kv_transfer_config and ec_transfer_config unset {_OFF}",
            _transfers_caches,
        ),
        (
            "compilation_config.pass_config.enable_sp",
            "pads a replica's rows up to its bound, which need not divide among tensor-parallel ranks",
            f"turn the enable_sp pass off {_OFF}",
            lambda d: d.vllm_config.compilation_config.pass_config.enable_sp,
        ),
        (
            "scheduler_cls",
            "brings its own scheduler",
            f"leave scheduler_cls unset {_OFF}",
            lambda d: d.vllm_config.scheduler_config.scheduler_cls not in (None, *_scheduler_names()),
        ),
        (
            "speculative_config.method",
            f"knows the rows of the drafts of {', '.join(_METHODS)}, without parallel_drafting",
            f"use one of these {_OFF}",
            _has_other_drafts,
        ),
    )
)


def use_scheduler(scheduler_config: Any) -> None:
    """Makes the engine core build the scheduler that commits, through vLLM's own setting `scheduler_cls`."""
    plain, asynchronous = _scheduler_names()
    chosen = asynchronous if scheduler_config.async_scheduling else plain
    change.replace(SCHEDULER_CLASS, chosen, scheduler_config)


def _scheduler_names() -> tuple[str, str]:
    return f"{_SCHEDULERS}.CommittingScheduler", f"{_SCHEDULERS}.CommittingAsyncScheduler"
