# SPDX-License-Identifier: Apache-2.0
"""Lists what a planned DP gather cannot work with, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from vllm_ascend_ext.dp_gather.machine import NAMED, MachineError, read
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import dense_model

_OFF = "or set dp_gather.enabled to false"


def _sends_rows_one_by_one(deployment: Deployment) -> object:
    backend = deployment.parallel.all2all_backend
    return (
        None
        if deployment.stack.dispatches(deployment.vllm_config) == ("ALLGATHER",)
        else {"backend": repr(backend)}
    )


def _machine_problem(deployment: Deployment) -> object:
    machine = deployment.config.dp_gather.machine
    try:
        if machine and machine not in NAMED:
            read(Path(machine))
    except MachineError as error:
        return {"problem": error}
    return None


RULES = (
    Rule(
        "dp_gather.enabled",
        "has not run on this kind of device, where rows of padding would reach kernels with the expert -1, and "
        "not all are known to take that",
        "set dp_gather.enabled to false",
        lambda d: "dp_gather" in d.device.unverified,
    ),
    Rule(
        "data_parallel_size",
        "plans how data-parallel replicas exchange rows, and data_parallel_size is 1",
        "raise it or set dp_gather.enabled to false",
        lambda d: d.parallel.data_parallel_size == 1,
    ),
    Rule(
        "all2all_backend",
        "gathers all rows, and all2all_backend={backend} sends them one by one",
        "use 'allgather_reducescatter'",
        _sends_rows_one_by_one,
        stack="vllm",
    ),
    Rule(
        "enable_elastic_ep, enable_dbo, ubatch_size, prefill_context_parallel_size",
        "plans one batch of a fixed set of ranks",
        "turn enable_elastic_ep and enable_dbo off, leave ubatch_size at 0 and prefill_context_parallel_size at 1",
        lambda d: (
            d.parallel.enable_elastic_ep
            or d.parallel.use_ubatching
            or d.parallel.prefill_context_parallel_size > 1
        ),
    ),
    Rule(
        "enable_lora",
        "is not built for LoRA, with which vLLM gathers the adapter of each row too",
        f"turn enable_lora off {_OFF}",
        lambda d: d.vllm_config.lora_config is not None,
    ),
    Rule(
        "dp_gather.machine",
        "needs dp_gather.machine: a known name or a description that "
        "`benchmarks/dp_gather.py --write-machine FILE` measured",
        "set it, or rule to 'auto'",
        lambda d: d.config.dp_gather.rule == "cost" and not d.config.dp_gather.machine,
        key="rule='cost'",
    ),
    Rule(
        "dp_gather.machine",
        "is not known: {problem}",
        "name one of these or a file that describes a machine",
        _machine_problem,
        key="machine",
    ),
    Rule(
        "model",
        "exchanges rows for routed experts, but {model} has none",
        "set dp_gather.enabled to false",
        dense_model,
    ),
    Rule(
        "enable_return_routed_experts",
        "moves rows to where enable_return_routed_experts does not look",
        "turn one off",
        lambda d: d.model is not None and d.model.enable_return_routed_experts,
    ),
    *(
        Rule(setting, why, instead, refuses)
        for setting, why, instead, refuses in (
            (
                "dp_gather.overlap_counts",
                "with overlap_counts lets a pass begin before all counts are known, and graphs need them to "
                "choose their size",
                "set enforce_eager or overlap_counts to false",
                lambda d: d.config.dp_gather.overlap_counts and d.stack.name == "vllm" and d.replays_graphs,
            ),
            (
                "dp_gather.counts_ahead",
                "with counts_ahead is built for eager passes: replicas would have to commit to the graph's size "
                "too, so that all replay the same",
                "set enforce_eager or counts_ahead to false",
                lambda d: d.config.dp_gather.counts_ahead and d.stack.name == "vllm" and d.replays_graphs,
            ),
            (
                "dp_gather.mode",
                "has mode 'sum_len' and 'variable' for eager passes, for neither can be captured into graphs",
                "leave mode at 'planned' or set enforce_eager",
                lambda d: (
                    d.config.dp_gather.mode not in ("planned", "max_len")
                    and d.stack.name == "vllm"
                    and d.replays_graphs
                ),
            ),
        )
    ),
)
