# SPDX-License-Identifier: Apache-2.0
"""Lists what scattered attention input cannot work with in vllm-ascend.

What the emulator has run is in docs/coverage.md. All else is refused, some of it because nothing could be gained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_ascend_ext.integration.attn_scatter.ascend_cut_steps import no_step_pays
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import (
    ascend_config,
    methods_beside_experts,
    methods_of_experts,
    named_methods,
    other_dispatches,
    splits_rows,
)

DISPATCHES = ("ALLGATHER", "MC2", "ALLTOALL")  # ways of rows to experts
GRAPHS = ("FULL_DECODE_ONLY", "PIECEWISE", "FULL_AND_PIECEWISE")
# architectures with latent attention
LATENT = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
# names that a checkpoint's description has of how layers are quantised: an activation's scale is its row's own
_WEIGHTS = ("W8A8_DYNAMIC",)
_EXPERT_WEIGHTS = (*_WEIGHTS, "W4A8_DYNAMIC")  # of routed experts beside latent attention and shared experts
# settings of vllm-ascend under which layers sum, move weights or overlap in ways that have not run with ours
_KEYS = (
    "finegrained_tp_config",
    "layer_sharding",
    "mix_placement",
    "multistream_overlap_gate",
    "weight_prefetch_config",
    "xlite_graph_config",
)
_OWN_KEYS = ("enable_flashcomm2_parallel_size", "enable_matmul_allreduce")  # set by a variable too


def _is_on(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value.get("enabled", any(value.values())))
    return bool(value)


def _other_settings(deployment: Deployment) -> object:
    given, own = deployment.vllm_config.additional_config or {}, ascend_config(deployment)
    on = [name for name in _KEYS if _is_on(given.get(name))]
    on += [name for name in _OWN_KEYS if getattr(own, name)]
    return {"settings": ", ".join(on)} if on else None


def _splits_rows(deployment: Deployment) -> bool:
    return splits_rows(deployment) or bool(ascend_config(deployment).enable_shared_expert_dp)


def _gathers_once(deployment: Deployment) -> bool:
    return _splits_rows(deployment) and not _architectures(deployment) & set(LATENT)


def _places_experts(deployment: Deployment) -> bool:
    return ascend_config(deployment).eplb_config.expert_map_path is not None


def _attends_to_own_rows(deployment: Deployment) -> bool:
    return _is_on((deployment.vllm_config.additional_config or {}).get("enable_dsa_cp"))


def _no_step_pays(deployment: Deployment) -> object:
    is_cut = _splits_rows(deployment) and not _gathers_once(deployment)
    has_ranks = deployment.parallel.tensor_parallel_size > 1
    return is_cut and has_ranks and not _repeats_no_projection(deployment) and no_step_pays(deployment)


def _other_graphs(deployment: Deployment) -> object:
    mode = deployment.vllm_config.compilation_config.cudagraph_mode
    known = not deployment.in_graphs or mode.name in GRAPHS
    return None if known else {"mode": mode.name}


def _architectures(deployment: Deployment) -> set[str]:
    return set() if deployment.model is None else set(deployment.model.architectures)


def _repeats_no_projection(deployment: Deployment) -> bool:
    """Returns whether all ranks repeat no projection of latent attention's queries; sparse attention has one."""
    if not _architectures(deployment) & set(LATENT):
        return False
    config = deployment.model.hf_text_config
    return not hasattr(config, "index_topk") and getattr(config, "q_lora_rank", None) is None


def _role(deployment: Deployment) -> str | None:
    transfer = deployment.vllm_config.kv_transfer_config
    return None if transfer is None else str(transfer.kv_role or "kv_both")


def _other_weights(deployment: Deployment) -> object:
    """Returns {methods} of quantised layers that no test has run, by the names of the checkpoint's description."""
    others = methods_beside_experts(deployment) - set(_WEIGHTS)
    of_experts = _EXPERT_WEIGHTS if _architectures(deployment) & set(LATENT) else _WEIGHTS
    return named_methods(others | methods_of_experts(deployment) - set(of_experts))


RULES = tuple(
    Rule(setting, why, f"{instead}, or set attn_scatter.enabled to false", refuses, stack="vllm-ascend")
    for setting, why, instead, refuses in (
        (
            "attn_scatter.full",
            "is not verified with full on vllm-ascend, whose experts compute the router's logits themselves",
            "set full to false",
            lambda d: d.config.attn_scatter.full,
        ),
        (
            "attn_scatter.odd_rows",
            "is not verified with odd_rows='uneven' on an NPU, whose kernels may then get no rows",
            "set it to 'pad'",
            lambda d: d.config.attn_scatter.odd_rows == "uneven",
        ),
        (
            "compilation_config.cudagraph_mode",
            "is not verified with cudagraph_mode {mode} on vllm-ascend",
            f"use {' or '.join(GRAPHS)}, or set enforce_eager",
            _other_graphs,
        ),
        (
            "pass_config.enable_sp",
            "and vllm-ascend's pass of sequence parallelism would both divide the rows",
            "turn that one off",
            lambda d: ascend_config(d).enable_sp_by_pass,
        ),
        (
            "enable_flashcomm1, enable_shared_expert_dp",
            "adds nothing to vllm-ascend's own division of the rows where attention, not latent, gathers once",
            "turn vllm-ascend's off",
            _gathers_once,
        ),
        (
            "enable_expert_parallel",
            "is not verified where rows reach the experts by {ways}, as they do here: their results may be summed "
            "on the way back",
            "turn enable_expert_parallel off",
            lambda d: other_dispatches(d, DISPATCHES),
        ),
        (
            "eplb_config.expert_map_path",
            "is not verified with a given placement of experts (expert_map_path)",
            "leave expert_map_path out, or use dynamic_eplb",
            _places_experts,
        ),
        (
            "eplb_config.num_redundant_experts",
            "is not verified with copies of experts (num_redundant_experts)",
            "set num_redundant_experts to 0",
            lambda d: bool(ascend_config(d).eplb_config.num_redundant_experts),
        ),
        (
            "enable_dsa_cp",
            "saves nothing with enable_dsa_cp, where each rank projects its own rows only and attends with them",
            "turn enable_dsa_cp off",
            _attends_to_own_rows,
        ),
        (
            "attn_scatter.min_tokens",
            "saves nothing beside vllm-ascend's own division of the rows, where one gather in a layer {steps}",
            "set min_tokens to have it all the same",
            _no_step_pays,
        ),
        (
            ", ".join((*_KEYS, *_OWN_KEYS)),
            "is not verified with {settings}",
            "turn that off",
            _other_settings,
        ),
        (
            "kv_transfer_config.kv_role",
            "is for steps with many rows, and an engine that only decodes, kv_consumer, has none",
            "use it in the engine that prefills, kv_producer",
            lambda d: _role(d) == "kv_consumer",
        ),
        (
            "kv_transfer_config.kv_role",
            "is not verified as kv_both",
            "use kv_producer, or no transfer",
            lambda d: _role(d) == "kv_both",
        ),
        (
            "quantization",
            "is not verified with layers whose weights are {methods}",
            "use W8A8_DYNAMIC, for experts of DeepSeek and GLM-5 W4A8_DYNAMIC, or an unquantised model",
            _other_weights,
        ),
        (
            "model",
            "is not verified on vllm-ascend without q_lora_rank, where all ranks repeat no wide projection",
            "use a model that has one",
            _repeats_no_projection,
        ),
        (
            "speculative_config.method",
            "is not verified with the drafts of ngram on vllm-ascend",
            "use mtp",
            lambda d: d.speculative_method == "ngram",
        ),
    )
)
