# SPDX-License-Identifier: Apache-2.0
"""Lists the ways to serve that have not run with every pair of vLLM and vllm-ascend (`Stack.unverified`).

They are refused whatever features are on: our worker and runner themselves have not run so.
"""

from __future__ import annotations

from collections.abc import Callable

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import KEY, Refusal, Rule
from vllm_ascend_ext.integration.rule_facts import (
    ascend_config,
    experts_quantised_otherwise,
    other_dispatches,
)
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


_GRAPHS = ("FULL_DECODE_ONLY", "PIECEWISE", "FULL_AND_PIECEWISE")
_WEIGHTS = ("W8A8_DYNAMIC", "W4A8_DYNAMIC")
_DISPATCHES = ("ALLGATHER", "MC2", "ALLTOALL", "FUSED_MC2")
_DRAFTS = ("mtp", "eagle3")
_MEGA_MOE = 2  # of enable_fused_mc2


def _other_graphs(deployment: Deployment) -> object:
    mode = deployment.vllm_config.compilation_config.cudagraph_mode
    has_run = mode is not None and mode.name in _GRAPHS
    return {"mode": getattr(mode, "name", mode)} if deployment.in_graphs and not has_run else None


def _mega_moe(deployment: Deployment) -> bool:
    """Returns whether rows go by CANN's MegaMoe, where it is installed; an A2 takes no notice.

    vllm-ascend is asked for it by a 2, of which its own configuration makes a 1.
    """
    given = deployment.vllm_config.additional_config or {}
    is_asked = given.get("enable_fused_mc2") == _MEGA_MOE
    return is_asked and "FUSED_MC2" in deployment.stack.dispatches(deployment.vllm_config)


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
        f"set it to {', '.join(_GRAPHS[:-1])} or {_GRAPHS[-1]}, or set enforce_eager",
        _other_graphs,
        "graphs of the mode {mode}",
    ),
    _way(
        "data parallelism without expert parallelism",
        "data_parallel_size",
        "set it to 1, or turn enable_expert_parallel on",
        lambda d: d.parallel.data_parallel_size > 1 and not d.parallel.enable_expert_parallel,
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
    _way(
        "the compiler's sequence parallelism",
        "compilation_config.pass_config.enable_sp",
        "turn it off (enable_flashcomm1 has run)",
        lambda d: ascend_config(d).enable_sp_by_pass,
    ),
    _way(
        "experts quantised otherwise",
        "quantization",
        f"use {' or '.join(_WEIGHTS)}, or an unquantised model",
        lambda d: experts_quantised_otherwise(d, _WEIGHTS),
        "experts quantised as {methods}",
    ),
    _way(
        "other dispatches",
        "enable_expert_parallel, enable_fused_mc2",
        "turn the latter off, or use fewer than 16 ranks of an A2",
        lambda d: other_dispatches(d, _DISPATCHES),
        "rows that reach the experts by {ways}",
    ),
    _way("MegaMoe", "enable_fused_mc2", "set it to 0 or 1", _mega_moe),
    _way(
        "other drafts than MTP's and EAGLE-3's",
        "speculative_config.method",
        f"use {' or '.join(map(repr, _DRAFTS))}",
        lambda d: d.speculative_method not in (None, *_DRAFTS),
    ),
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
