# SPDX-License-Identifier: Apache-2.0
"""Lists what rebalancing by our counts cannot work with: in vLLM's EPLB, and in vllm-ascend's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import ascend_config, other_dispatches

_CUT = ("MC2", "ALLTOALL")


def _is_on(deployment: Deployment) -> bool:
    return deployment.config.eplb_load.rebalance


def _where_on(refuses: Callable[[Deployment], object], deployment: Deployment) -> object:
    return _is_on(deployment) and refuses(deployment)


def _has_no_window(deployment: Deployment) -> object:
    lead = deployment.config.eplb_load.rebalance_lead
    # vLLM starts its first interval at three quarters
    first = deployment.parallel.eplb_config.step_interval // 4
    return (
        {"lead": lead, "first": first, "least": 4 * (lead + 1)} if _is_on(deployment) and lead >= first else None
    )


VLLM_RULES = tuple(
    Rule(setting, why, instead, refuses, key=key, stack="vllm")
    for key, setting, why, instead, refuses in (
        (
            "rebalance",
            "enable_eplb",
            "feeds vLLM's EPLB, which is off",
            "set enable_eplb, or rebalance to false",
            lambda d: _is_on(d) and not d.parallel.enable_eplb,
        ),
        (
            "rebalance",
            "eplb_config.log_balancedness",
            "turns vLLM's own counts off, which eplb_config.log_balancedness logs",
            "turn it off and read vllm:ascend_ext_eplb_load_imbalance_ratio on /metrics",
            lambda d: _is_on(d) and d.parallel.eplb_config.log_balancedness,
        ),
        (
            "rebalance_lead={lead}",
            "eplb_config.step_interval",
            "steps before vLLM's first rebalancing, after {first} steps (a quarter of eplb_config.step_interval), "
            "there is nothing to count",
            "lower rebalance_lead, or set step_interval to at least {least}",
            _has_no_window,
        ),
    )
)


def _eplb_config(deployment: Deployment) -> Any:
    return ascend_config(deployment).eplb_config


def _has_no_ascend_window(deployment: Deployment) -> object:
    eplb_config = _eplb_config(deployment)
    lead, interval = deployment.config.eplb_load.rebalance_lead, eplb_config.expert_heat_collection_interval
    if lead < interval and eplb_config.algorithm_execution_interval >= 1:
        return None
    return {"lead": lead, "interval": interval}


def _num_ranks(deployment: Deployment) -> int:
    parallel = deployment.parallel
    return int(
        parallel.tensor_parallel_size * parallel.data_parallel_size * parallel.prefill_context_parallel_size
    )


def _num_copies(deployment: Deployment) -> int:
    return int(_eplb_config(deployment).num_redundant_experts)


def _has_other_copies(deployment: Deployment) -> object:
    copies, ranks = _num_copies(deployment), _num_ranks(deployment)
    policy = _eplb_config(deployment).eplb_policy_type
    if copies == 0 or (policy == 1 and copies <= ranks):
        return None
    return {"copies": copies, "ranks": ranks, "policy": policy}


def _other_graphs(deployment: Deployment) -> object:
    if deployment.model is None or deployment.model.enforce_eager or not deployment.replays_graphs:
        return None
    mode = deployment.vllm_config.compilation_config.cudagraph_mode.name
    return None if mode == "FULL_DECODE_ONLY" else {"mode": mode}


def _has_too_few_ranks(deployment: Deployment) -> object:
    ranks = _num_ranks(deployment)
    # vllm-ascend takes policy 0 for a number that it does not know
    shuffles = _eplb_config(deployment).eplb_policy_type not in (1, 2, 3)
    return {"ranks": ranks} if shuffles and ranks < 4 else None


ASCEND_RULES = tuple(
    Rule(
        setting,
        why,
        f"{instead}, or set rebalance to false",
        functools.partial(_where_on, refuses),
        key="rebalance",
        stack="vllm-ascend",
    )
    for setting, why, instead, refuses in (
        (
            "eplb_config.dynamic_eplb",
            "needs eplb_config.dynamic_eplb",
            "set it (and DYNAMIC_EPLB=true)",
            lambda d: not _eplb_config(d).dynamic_eplb,
        ),
        (
            "pipeline_parallel_size",
            "is not verified with pipeline stages on the NPU",
            "set it to 1",
            lambda d: d.parallel.pipeline_parallel_size > 1,
        ),
        (
            "enable_expert_parallel",
            "is not verified where vllm-ascend dispatches by {ways}",
            "set enable_fused_mc2 to 0",
            lambda d: other_dispatches(d, ("ALLGATHER", *_CUT)),
        ),
        (
            "compilation_config.cudagraph_mode",
            "is not verified in graphs of vllm-ascend in the mode {mode}",
            "set cudagraph_mode to FULL_DECODE_ONLY, or enforce_eager",
            _other_graphs,
        ),
        (
            "eplb_config.num_redundant_experts",
            "cannot have copies of experts where vllm-ascend 0.23.0 gathers rows: it looks the number of a place "
            "up in a table of experts, which is shorter (token_dispatcher.py:393)",
            "leave num_redundant_experts at 0 there",
            lambda d: _num_copies(d) > 0 and other_dispatches(d, _CUT),
        ),
        (
            "eplb_config.num_redundant_experts",
            "gives policy 1, the only one that is verified with copies, at most a copy a rank: here {copies} on "
            "{ranks} ranks by policy {policy}",
            "choose policy 1 and at most as many copies as ranks",
            _has_other_copies,
        ),
        (
            "eplb_config.expert_map_path",
            "is not verified with a placement of its own",
            "leave expert_map_path out",
            lambda d: _eplb_config(d).expert_map_path is not None,
        ),
        (
            "eplb_config.expert_map_record_path",
            "does not record maps",
            "leave expert_map_record_path out",
            lambda d: _eplb_config(d).expert_map_record_path is not None,
        ),
        (
            "eplb_config.eplb_policy_type",
            "needs at least 4 expert-parallel ranks for policy 0, which swaps experts of ranks 1 and 3 whatever "
            "their load, and there are {ranks}: its process would end in mid-serving",
            "choose 1 or 2",
            _has_too_few_ranks,
        ),
        (
            "eplb_config.eplb_policy_type",
            "has no counts of single steps, as policy 3 wants",
            "choose 0, 1 or 2",
            lambda d: _eplb_config(d).eplb_policy_type == 3,
        ),
        (
            "eplb_config.eplb_heat_collection_stage, eplb_load.phase",
            "wants all steps, for a window without a step of the phase would leave the policy nothing to go by",
            "leave ascend_ext.eplb_load.phase and eplb_config.eplb_heat_collection_stage at 'all'",
            lambda d: _eplb_config(d).eplb_heat_collection_stage != "all" or d.config.eplb_load.phase != "all",
        ),
        (
            "eplb_load.rebalance_lead",
            "needs rebalance_lead (is {lead}) below expert_heat_collection_interval (is {interval}), and "
            "algorithm_execution_interval of at least 1",
            "lower the one or raise the other",
            _has_no_ascend_window,
        ),
    )
)
