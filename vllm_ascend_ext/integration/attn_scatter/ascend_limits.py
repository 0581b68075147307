# SPDX-License-Identifier: Apache-2.0
"""Lists what scattered attention input cannot work with in vllm-ascend.

The emulator has run one replica of DeepSeek-V3 and Qwen3-MoE layers with unquantised weights, whose rows reach
the experts by all-gather, in eager mode and beside graphs. All else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import (
    ascend_config,
    methods_of_layers,
    named_methods,
    other_dispatches,
    splits_rows,
)

DISPATCHES = ("ALLGATHER", "MC2", "ALLTOALL")  # ways of rows to experts
GRAPHS = ("FULL_DECODE_ONLY", "PIECEWISE")
# architectures with latent attention
LATENT = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
# names that a checkpoint's description has of how layers are quantised: an activation's scale is its row's own
_WEIGHTS = ("W8A8_DYNAMIC",)
# settings of vllm-ascend under which layers sum, move weights or overlap in ways that have not run with ours
_KEYS = (
    "enable_dsa_cp",
    "finegrained_tp_config",
    "layer_sharding",
    "mix_placement",
    "multistream_overlap_gate",
    "multistream_overlap_shared_expert",
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


def _moves_experts(deployment: Deployment) -> bool:
    eplb_config = ascend_config(deployment).eplb_config
    return bool(eplb_config.dynamic_eplb or eplb_config.expert_map_path is not None)


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


def _other_role(deployment: Deployment) -> object:
    transfer = deployment.vllm_config.kv_transfer_config
    return None if transfer is None or transfer.kv_role == "kv_producer" else {"role": transfer.kv_role}


def _other_weights(deployment: Deployment) -> object:
    """Returns {methods} of quantised layers that no test has run, by the names of the checkpoint's description."""
    return named_methods(methods_of_layers(deployment) - set(_WEIGHTS))


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
            "eplb_config.dynamic_eplb, eplb_config.expert_map_path",
            "is not verified with vllm-ascend's EPLB",
            "turn dynamic_eplb off and leave expert_map_path out",
            _moves_experts,
        ),
        (
            ", ".join((*_KEYS, *_OWN_KEYS)),
            "is not verified with {settings}",
            "turn that off",
            _other_settings,
        ),
        (
            "kv_transfer_config.kv_role",
            "is not verified as {role}; an engine that decodes only has no steps to scatter",
            "use it in the engine that prefills, kv_producer",
            _other_role,
        ),
        (
            "quantization",
            "is not verified with layers whose weights are {methods}",
            "use W8A8_DYNAMIC or an unquantised model",
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
