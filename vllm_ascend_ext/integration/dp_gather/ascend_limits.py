# SPDX-License-Identifier: Apache-2.0
"""Lists what a planned DP gather cannot work with in vllm-ascend.

The emulator has run eager mode and all-gather dispatch, with every rank holding all rows of its replica. All else
is refused.
"""

from __future__ import annotations

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import ascend_config, other_dispatches, quantization, splits_rows


def _splits_rows(deployment: Deployment) -> bool:
    return splits_rows(deployment) or bool(ascend_config(deployment).enable_shared_expert_dp)


def _moves_experts(deployment: Deployment) -> bool:
    eplb_config = ascend_config(deployment).eplb_config
    return bool(eplb_config.dynamic_eplb or eplb_config.expert_map_path is not None)


RULES = tuple(
    Rule(setting, why, f"{instead}, or set dp_gather.enabled to false", refuses, stack="vllm-ascend")
    for setting, why, instead, refuses in (
        (
            "enforce_eager",
            "is not verified in vllm-ascend's graph mode",
            "set enforce_eager",
            lambda d: d.model is not None and not d.model.enforce_eager,
        ),
        (
            "enable_flashcomm1, enable_shared_expert_dp",
            "does not follow vllm-ascend's sequence parallelism",
            "turn enable_flashcomm1 and enable_shared_expert_dp off",
            _splits_rows,
        ),
        (
            "pipeline_parallel_size",
            "is not verified with pipeline stages on the NPU",
            "set pipeline_parallel_size to 1",
            lambda d: d.parallel.pipeline_parallel_size > 1,
        ),
        (
            "eplb_config.dynamic_eplb, eplb_config.expert_map_path",
            "is not verified with vllm-ascend's EPLB",
            "turn eplb_config.dynamic_eplb off and leave expert_map_path out",
            _moves_experts,
        ),
        (
            "mix_placement",
            "is not verified with shared experts among the routed ones",
            "turn mix_placement off",
            lambda d: ascend_config(d).mix_placement,
        ),
        (
            "multistream_overlap_gate",
            "needs the gate on the main stream",
            "turn multistream_overlap_gate off",
            lambda d: ascend_config(d).multistream_overlap_gate,
        ),
        (
            "kv_transfer_config",
            "needs every replica's rows, which vllm-ascend does not exchange beside KV transfer",
            "remove kv_transfer_config",
            lambda d: d.vllm_config.kv_transfer_config is not None,
        ),
        (
            "quantization",
            "is not verified with the quantised experts of quantization={method}",
            "use an unquantised model",
            quantization,
        ),
        (
            "enable_expert_parallel",
            "has nothing to gather in steps that vllm-ascend dispatches by {ways}, as it does on this SoC with "
            "this number of ranks: their rows go straight to the ranks of their experts",
            "use it where all-gather dispatches (an A2 with fewer than 16 ranks)",
            lambda d: other_dispatches(d, ("ALLGATHER",)),
        ),
        (
            "dp_gather.overlap_counts",
            "does not overlap counts with vllm-ascend's own exchange of them",
            "set overlap_counts to false",
            lambda d: d.config.dp_gather.overlap_counts,
        ),
    )
)
