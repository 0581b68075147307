# SPDX-License-Identifier: Apache-2.0
"""Reads from a config.json what a prediction needs to know of a model, and counts its matrix products."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ascend_ext.attn_scatter.cut_cost import CutSizes
from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes
from vllm_ascend_ext.dp_gather.plan_rows import PlanInputError
from vllm_ascend_ext.tools.check.model_facts import ModelFacts
from vllm_ascend_ext.tools.worth.known_sizes import SIZES

ELEMENT_BYTES = 2  # activations in bfloat16
_LOGIT_BYTES = 4  # routers answer in float32


@dataclass(frozen=True, slots=True)
class Attention:
    """Holds the sizes of an attention, in elements.

    Attributes:
        heads, kv_heads: heads of queries, and of keys and values.
        q_rank: width of the queries' latent, 0 where queries come from the hidden rows.
        kv_rank: width of the latent of keys and values, 0 for attention without one.
        query, value: width of a head's query with its rotary part, and of its value.
        rope: width of the rotary part that keys share with a latent.
        indexer: columns that the indexer of sparse attention reads of each row; 0 without one.
    """

    heads: int
    kv_heads: int
    q_rank: int
    kv_rank: int
    query: int
    value: int
    rope: int
    indexer: int

    @property
    def latent(self) -> int:
        """Returns the columns of the projection that every rank repeats; 0 where there is none."""
        return self.q_rank + self.kv_rank + self.rope + self.indexer if self.q_rank and self.kv_rank else 0

    def weights(self, hidden: int) -> int:
        """Returns the weights that the ranks share out: of all projections but the repeated one."""
        output = self.heads * self.value * hidden
        if not self.kv_rank:
            return output + hidden * (self.heads * self.query + self.kv_heads * (self.query + self.value))
        queries = (self.q_rank or hidden) * self.heads * self.query
        return output + queries + self.kv_rank * self.heads * (self.query - self.rope + self.value)


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Holds the sizes of a model.

    Attributes:
        name: name or path that it was asked for by.
        hidden: columns of a row.
        routed: for each layer, whether it has routed experts.
        attention: sizes of each layer's attention.
        dense: columns inside a dense MLP.
        expert, shared: columns inside one routed expert, and inside all shared ones.
        num_experts, top_k: routed experts of a layer, and of a row.
        drafts: layers for multi-token prediction.
    """

    name: str
    hidden: int
    routed: tuple[bool, ...]
    attention: Attention
    dense: int
    expert: int
    shared: int
    num_experts: int
    top_k: int
    drafts: int

    @property
    def num_routed(self) -> int:
        return sum(self.routed)

    def layers(self, *, on_shards: bool) -> list[LayerSizes]:
        """Returns the layers' sizes for scattered attention; `on_shards`: experts are sequence-parallel."""
        gathered = self.attention.latent or self.hidden
        return [
            LayerSizes(
                self.hidden,
                gathered,
                ELEMENT_BYTES,
                logits_bytes=self.num_experts * _LOGIT_BYTES * routed,
                mlp_on_shards=on_shards and routed,
            )
            for routed in self.routed
        ]

    def cut_layers(self) -> list[CutSizes]:
        """Returns the layers' sizes where rows are divided already; none without a latent that ranks repeat."""
        attention = self.attention
        if not attention.latent:
            return []
        key = attention.kv_rank + attention.rope
        layer = CutSizes(self.hidden, attention.q_rank, key, ELEMENT_BYTES, attention.indexer)
        return [layer] * len(self.routed)

    @property
    def shared_out(self) -> int:
        """Returns the weights that work on a row and that the ranks share out, all layers together, experts
        included."""
        dense = 3 * self.hidden * self.dense * (len(self.routed) - self.num_routed)
        shared = 3 * self.hidden * self.shared * self.num_routed
        return dense + shared + self.routed_weights + self.attention.weights(self.hidden) * len(self.routed)

    @property
    def routed_weights(self) -> int:
        """Returns the weights of routed experts that work on a row, all layers together."""
        return 3 * self.hidden * self.top_k * self.expert * self.num_routed

    def attention_flops(self, num_rows: int, prompt: int) -> int:
        """Returns the operations of causal attention itself, all heads, for `num_rows` rows of prompts of
        `prompt` tokens."""
        attention = self.attention
        return num_rows * (prompt + 1) * attention.heads * (attention.query + attention.value) * len(self.routed)


def read_sizes(name: str) -> ModelSizes:
    """Returns the sizes of a model by its name in `known_sizes`, or by the path of its folder or config.json.

    Raises:
        PlanInputError: neither, or a file that does not say enough.
    """
    if name in SIZES:
        return sizes_of(name, SIZES[name])
    path = Path(name)
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        raise PlanInputError(
            f"model {name!r} is neither one of {', '.join(SIZES)} nor a folder or config.json on this machine"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanInputError(f"{path} is no config.json that can be read: {error}") from None
    if not isinstance(config, dict):
        raise PlanInputError(f"{path} holds no mapping")
    return sizes_of(name, ModelFacts(name, config, None, "").text_config)


def sizes_of(name: str, config: Mapping[str, Any]) -> ModelSizes:
    """Returns the sizes in a config.json.

    Raises:
        PlanInputError: a key that is needed is missing, or is no positive number.
    """
    facts = ModelFacts(name, config, None, "")
    hidden, num_layers = _number(name, config, "hidden_size"), _number(name, config, "num_hidden_layers")
    dense = _number(name, config, "intermediate_size")
    expert = _number(name, config, "moe_intermediate_size", dense)
    shared = _number(name, config, "n_shared_experts", 0) * expert
    return ModelSizes(
        name,
        hidden,
        _routed(name, config, num_layers, facts.num_experts),
        _attention(name, config, hidden),
        dense,
        expert,
        shared or _number(name, config, "shared_expert_intermediate_size", 0),
        facts.num_experts,
        facts.top_k,
        _number(name, config, "num_nextn_predict_layers", 0),
    )


def _attention(name: str, config: Mapping[str, Any], hidden: int) -> Attention:
    heads = _number(name, config, "num_attention_heads")
    kv_rank = _number(name, config, "kv_lora_rank", 0)
    indexer = _number(name, config, "index_head_dim", 0) + _number(name, config, "index_n_heads", 0)
    if kv_rank:
        rope = _number(name, config, "qk_rope_head_dim")
        query = _number(name, config, "qk_nope_head_dim") + rope
        value, q_rank = _number(name, config, "v_head_dim"), _number(name, config, "q_lora_rank", 0)
        return Attention(heads, heads, q_rank, kv_rank, query, value, rope, indexer)
    width = _number(name, config, "head_dim", hidden // heads)
    kv_heads = _number(name, config, "num_key_value_heads", heads)
    return Attention(heads, kv_heads, 0, 0, width, width, 0, indexer)


def _routed(name: str, config: Mapping[str, Any], num_layers: int, num_experts: int) -> tuple[bool, ...]:
    """Returns for each layer whether it has routed experts, as the families' keys say."""
    if not num_experts:
        return (False,) * num_layers
    frequency = config.get("moe_layer_freq")
    if isinstance(frequency, list) and len(frequency) == num_layers:
        return tuple(bool(layer) for layer in frequency)
    first = _number(name, config, "first_k_dense_replace", _number(name, config, "moe_layer_start_index", 0))
    every = _number(name, config, "moe_layer_freq", 1)
    step = _number(name, config, "decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or ()
    return tuple(
        index >= first and index % every == 0 and (index + 1) % step == 0 and index not in dense
        for index in range(num_layers)
    )


def _number(name: str, config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Returns a key's number; `default` where the key is missing or null, which is an error without one."""
    value = config.get(key)
    if value is None:
        if default is None:
            raise PlanInputError(f"the configuration of {name} has no {key}: give the model's own config.json")
        return default
    if type(value) is not int or value < (1 if default is None else 0):
        raise PlanInputError(f"the configuration of {name} has {key} {value!r}, which is no number of that kind")
    return value
