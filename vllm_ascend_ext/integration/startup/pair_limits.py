# SPDX-License-Identifier: Apache-2.0
"""Lists the ways to serve that have not run with every pair of vLLM and vllm-ascend (`Stack.unverified`).

They are refused whatever features are on: our worker and runner themselves have not run so.
"""

from __future__ import annotations

from collections.abc import Callable

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import KEY, Refusal, Rule
from vllm_ascend_ext.integration.rule_facts import ascend_config, other_dispatches, quantization, splits_rows
from vllm_ascend_ext.integration.upstream.versions import PAIRS, Pair

_OTHER_PAIR = f"or install {PAIRS[0]}"


def _way(way: str, setting: str, instead: str, refuses: Callable[[Deployment], object], words: str = "") -> Rule:
    """Returns the rule about a way to serve, as the stacks name it; `words` say it where values belong in it."""
    return Rule(
        setting,
        f"is not verified with {words or way} on this vllm-ascend",
        f"{instead}, {_OTHER_PAIR}",
        lambda d: way in d.stack.unverified and refuses(d),
        stack="vllm-ascend",
    )


def _other_graphs(deployment: Deployment) -> object:
    mode = deployment.vllm_config.compilation_config.cudagraph_mode
    has_run = mode is not None and mode.name in ("FULL_DECODE_ONLY", "PIECEWISE")
    return {"mode": getattr(mode, "name", mode)} if deployment.in_graphs and not has_run else None


def _other_replicas(deployment: Deployment) -> bool:
    parallel = deployment.parallel
    has_one_rank = parallel.tensor_parallel_size * parallel.pipeline_parallel_size == 1
    is_plain = not (deployment.speculative_method or deployment.in_graphs)
    has_run = has_one_rank and parallel.enable_expert_parallel and is_plain
    return parallel.data_parallel_size > 1 and not has_run


RULES = (
    _way(
        "the V2 model runner",
        "VLLM_USE_V2_MODEL_RUNNER",
        "set it to 0",
        lambda d: d.vllm_config.use_v2_model_runner,
    ),
    _way(
        "other graphs",
        "compilation_config.cudagraph_mode",
        "set it to FULL_DECODE_ONLY or PIECEWISE, or set enforce_eager",
        _other_graphs,
        "graphs of the mode {mode}",
    ),
    _way(
        "drafts in captured graphs",
        "enforce_eager",
        "set it",
        lambda d: d.in_graphs and d.speculative_method,
    ),
    _way(
        "data parallelism of other replicas",
        "data_parallel_size",
        "set it to 1",
        _other_replicas,
        "data parallelism of replicas with several ranks, with drafts, in graphs or without expert parallelism",
    ),
    _way(
        "pipeline parallelism",
        "pipeline_parallel_size",
        "set it to 1",
        lambda d: d.parallel.pipeline_parallel_size > 1,
    ),
    _way(
        "context parallelism",
        "prefill_context_parallel_size, decode_context_parallel_size",
        "set both to 1",
        lambda d: d.parallel.prefill_context_parallel_size * d.parallel.decode_context_parallel_size > 1,
    ),
    _way("sequence parallelism", "enable_flashcomm1, pass_config.enable_sp", "turn it off", splits_rows),
    _way(
        "replicated shared experts",
        "enable_shared_expert_dp",
        "turn it off",
        lambda d: ascend_config(d).enable_shared_expert_dp,
    ),
    _way(
        "quantised weights",
        "quantization",
        "use an unquantised model",
        quantization,
        "weights quantised as {method}",
    ),
    _way(
        "dispatches but all-gather",
        "enable_expert_parallel",
        "use fewer than 16 ranks of an A2, or turn enable_expert_parallel off",
        lambda d: other_dispatches(d, ("ALLGATHER",)),
        "rows that reach the experts by {ways}",
    ),
    _way(
        "other drafts than MTP's",
        "speculative_config.method",
        "use 'mtp'",
        lambda d: d.speculative_method not in (None, "mtp"),
    ),
    _way("KV transfer", "kv_transfer_config", "remove it", lambda d: d.vllm_config.kv_transfer_config is not None),
    _way("LoRA", "enable_lora", "turn it off", lambda d: d.vllm_config.lora_config is not None),
    _way(
        "dynamic EPLB",
        "enable_eplb, eplb_config.dynamic_eplb",
        "turn it off",
        lambda d: d.parallel.enable_eplb or ascend_config(d).eplb_config.dynamic_eplb,
    ),
)


def unverified_feature(name: str, pair: Pair) -> Refusal:
    """Returns the refusal of a feature that has not run with a pair."""
    others = " or ".join(str(other) for other in PAIRS if name not in other.unverified)
    return Refusal(
        f"{KEY}.{name}",
        f"{name}.enabled",
        f"has not run with {pair}, and is unverified there",
        f"set {name}.enabled to false, or install {others}",
    )
