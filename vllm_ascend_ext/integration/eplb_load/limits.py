# SPDX-License-Identifier: Apache-2.0
"""Lists what expert-load collection cannot work with, before anything is loaded."""

from __future__ import annotations

from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import (
    ascend_config,
    dense_model,
    other_dispatches,
    quantization,
    splits_rows,
)

_OFF = "or set eplb_load.enabled to false"


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
            "enforce_eager",
            "is not verified in vllm-ascend's graph mode",
            "set enforce_eager",
            lambda d: d.model is not None and not d.model.enforce_eager,
        ),
        (
            "data_parallel_size",
            "is not verified with data parallelism on the NPU",
            "use TP",
            lambda d: d.parallel.data_parallel_size > 1,
        ),
        (
            "pipeline_parallel_size",
            "is not verified with pipeline stages on the NPU",
            "use TP",
            lambda d: d.parallel.pipeline_parallel_size > 1,
        ),
        (
            "prefill_context_parallel_size, decode_context_parallel_size",
            "cannot tell which rows are a rank's own under context parallelism",
            "turn it off",
            lambda d: max(d.parallel.prefill_context_parallel_size, d.parallel.decode_context_parallel_size) > 1,
        ),
        (
            "enable_flashcomm1",
            "cannot count rows that vllm-ascend's sequence parallelism splits",
            "turn enable_flashcomm1 off",
            splits_rows,
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
            "cannot see what the layers of quantization={method} route, which vllm-ascend's methods keep to "
            "themselves",
            "use an unquantised model",
            quantization,
        ),
        (
            "enable_expert_parallel",
            "cannot see all rows where vllm-ascend dispatches by {ways}, as it does on this SoC with this "
            "number of ranks",
            "use an SoC and a number of ranks with all-gather dispatch (an A2 with fewer than 16 ranks)",
            other_dispatches,
        ),
    )
)
