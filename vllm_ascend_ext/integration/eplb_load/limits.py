# SPDX-License-Identifier: Apache-2.0
"""Lists what expert-load collection cannot work with, before anything is loaded."""

from __future__ import annotations

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.eplb_load.ascend_quantised import experts_of_an_a5, unwatched_experts
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import ascend_config, dense_model

_OFF = "or set eplb_load.enabled to false"


def _compiled_sequence_parallelism(deployment: Deployment) -> bool:
    return bool(ascend_config(deployment).enable_sp_by_pass)


def _fused_decode(deployment: Deployment) -> bool:
    """Returns whether steps go by dispatch_gmm_combine_decode; an A2 has it not and takes no notice."""
    is_asked = ascend_config(deployment).enable_fused_mc2 == 2
    return is_asked and "FUSED_MC2" in deployment.stack.dispatches(deployment.vllm_config)


RULES = (
    Rule(
        "enable_elastic_ep",
        "sums over a fixed set of ranks",
        "turn enable_elastic_ep off",
        lambda d: d.parallel.enable_elastic_ep,
    ),
    Rule(
        "eplb_load.aggregation",
        "needs collectives on the device, which the CPU has not",
        "set it to 'host'",
        lambda d: d.config.eplb_load.aggregation == "device" and not d.device.device_collectives,
        key="aggregation='device'",
    ),
    Rule(
        "enable_dbo, ubatch_size",
        "cannot tell micro-batches apart",
        "turn enable_dbo off and leave ubatch_size at 0",
        lambda d: d.parallel.use_ubatching,
    ),
    Rule(
        "speculative_config.method",
        "and speculative method 'ngram_gpu' do not work together: that proposer changes the number of scheduled "
        "tokens on the device",
        "use 'ngram'",
        lambda d: d.speculative_method == "ngram_gpu",
    ),
    Rule(
        "model",
        "counts routed experts, but {model} has none",
        "use a mixture-of-experts model or set eplb_load.enabled to false",
        dense_model,
    ),
    Rule(
        "enable_return_routed_experts",
        "and enable_return_routed_experts both need vLLM's one routing hook",
        "turn one off",
        lambda d: d.model is not None and d.model.enable_return_routed_experts,
    ),
)

ASCEND_RULES = tuple(
    Rule(setting, why, f"{instead}, {_OFF}", refuses, stack="vllm-ascend")
    for setting, why, instead, refuses in (
        (
            "prefill_context_parallel_size",
            "cannot tell which of a sequence's rows are a rank's own under prefill context parallelism",
            "set it to 1 (decode context parallelism, which divides no rows, is counted)",
            lambda d: d.parallel.prefill_context_parallel_size > 1,
        ),
        (
            "compilation_config.pass_config.enable_sp",
            "is not verified where vllm-ascend's compiler splits the rows among the TP ranks",
            "turn it off (enable_flashcomm1 is counted)",
            _compiled_sequence_parallelism,
        ),
        (
            "mix_placement",
            "does not count shared experts as routed ones",
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
            "quantization",
            "cannot see what experts quantised as {methods} route",
            "use W8A8_DYNAMIC or another method that it can watch, or an unquantised model",
            unwatched_experts,
        ),
        (
            "quantization",
            "has been run with no experts quantised as {methods}, of floats that only an A5 multiplies",
            "use W8A8_DYNAMIC or another method that it can watch, or an unquantised model",
            experts_of_an_a5,
        ),
        (
            "enable_fused_mc2",
            "is not verified with enable_fused_mc2=2, vllm-ascend's dispatch_gmm_combine_decode",
            "set it to 0 or 1",
            _fused_decode,
        ),
    )
)
