# SPDX-License-Identifier: Apache-2.0
"""Sorts deployments into classes, of which each is verified by a test or by none."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from vllm_ascend_ext.tools.check.ascend_choice import CommandStack
from vllm_ascend_ext.tools.check.model_facts import ModelFacts


@dataclass(frozen=True, slots=True, order=True)
class DeploymentClass:
    """Holds what tells deployments apart for the features; sizes beyond "more than one" do not.

    Attributes:
        family: kind of attention: GQA, MLA, sparse MLA, DeepSeek-V4, linear attention, dense.
        graphs: eager, or vLLM's name of the graph mode.
        dispatch: the ways that rows may take to their experts, for example "MC2, ALLTOALL".
        weights: unquantised, or the widths of weights and activations, for example w8a8.
        layout: the kinds of parallelism with more than one rank, for example "DP+TP+EP"; Ray
            where ranks are its actors; "1" for one rank.
        row_split: FlashComm v1, shared-expert DP, or none.
        drafts: none, or method and number, for example "mtp 3".
        transfer: what the server does with KV caches: none, producer, consumer, both.
    """

    family: str
    graphs: str
    dispatch: str
    weights: str
    layout: str
    row_split: str
    drafts: str
    transfer: str

    def __str__(self) -> str:
        """Returns the values, in the order of the dimensions, without what is off."""
        values = (str(getattr(self, dimension)) for dimension in DIMENSIONS)
        return " · ".join(value for value in values if value not in ("none", "unquantised"))


DIMENSIONS = tuple(field.name for field in fields(DeploymentClass))


def class_of(vllm_config: Any, facts: ModelFacts, stack: CommandStack) -> DeploymentClass:
    """Returns the class of a deployment on the stack's SoC."""
    return DeploymentClass(
        family=facts.family,
        graphs=_graphs(vllm_config),
        dispatch=stack.dispatch_class(vllm_config),
        weights=_weights(vllm_config, facts),
        layout=_layout(vllm_config.parallel_config),
        row_split=_row_split(vllm_config, stack),
        drafts=_drafts(vllm_config.speculative_config),
        transfer=_transfer(vllm_config.kv_transfer_config),
    )


def _graphs(vllm_config: Any) -> str:
    mode = vllm_config.compilation_config.cudagraph_mode.name
    return "eager" if mode == "NONE" else str(mode)


def _weights(vllm_config: Any, facts: ModelFacts) -> str:
    if not vllm_config.model_config.quantization:
        return "unquantised"
    return facts.scheme or str(vllm_config.model_config.quantization)


def _layout(parallel: Any) -> str:
    kinds = {
        "DP": parallel.data_parallel_size > 1,
        "TP": parallel.tensor_parallel_size > 1,
        "EP": bool(parallel.enable_expert_parallel) and parallel.world_size_across_dp > 1,
        "PP": parallel.pipeline_parallel_size > 1,
        "PCP": parallel.prefill_context_parallel_size > 1,
        "DCP": parallel.decode_context_parallel_size > 1,
        "Ray": parallel.use_ray,
    }
    return "+".join(kind for kind, is_there in kinds.items() if is_there) or "1"


def _row_split(vllm_config: Any, stack: CommandStack) -> str:
    own = stack.own_config(vllm_config)
    if own.enable_shared_expert_dp:
        return "shared-expert DP"
    if not stack.splits_rows(vllm_config):
        return "none"
    return "FlashComm v1" if own.enable_flashcomm1 else "SP pass"


def _drafts(speculative: Any) -> str:
    if speculative is None:
        return "none"
    return f"{speculative.method} {speculative.num_speculative_tokens or '?'}"


def _transfer(kv_transfer: Any) -> str:
    return "none" if kv_transfer is None else str(kv_transfer.kv_role or "kv_both").removeprefix("kv_")
