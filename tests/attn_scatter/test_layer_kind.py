# SPDX-License-Identifier: Apache-2.0
"""Layers that are taken apart by what they have, and what is said of those that are not: on vLLM's own classes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from vllm_ascend_ext.integration.attn_scatter.layer_kind import (
    layer_forward_lacks,
    model_forward_lacks,
    modules_of,
)

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

_MODELS = "vllm.model_executor.models"
# module, decoder layer, name of its MLP, model
TAKEN = (
    ("llama", "LlamaDecoderLayer", "mlp", "LlamaModel"),
    ("qwen2", "Qwen2DecoderLayer", "mlp", "Qwen2Model"),
    ("qwen3", "Qwen3DecoderLayer", "mlp", "Qwen3Model"),
    ("qwen2_moe", "Qwen2MoeDecoderLayer", "mlp", "Qwen2MoeModel"),
    ("qwen3_moe", "Qwen3MoeDecoderLayer", "mlp", "Qwen3MoeModel"),
    ("mixtral", "MixtralDecoderLayer", "block_sparse_moe", "MixtralModel"),
    ("olmoe", "OlmoeDecoderLayer", "mlp", "OlmoeModel"),
    ("ernie45_moe", "Ernie4_5_MoeDecoderLayer", "mlp", "Ernie4_5_MoeModel"),
    ("minimax_m2", "MiniMaxM2DecoderLayer", "block_sparse_moe", "MiniMaxM2Model"),
    ("glm4_moe", "Glm4MoeDecoderLayer", "mlp", "Glm4MoeModel"),
)
# module, decoder layer → words of what it lacks
LACKING = {
    ("granite", "GraniteDecoderLayer"): "computes residual + hidden_states * self.residual_multiplier",
    ("gemma2", "Gemma2DecoderLayer"): "self.pre_feedforward_layernorm",
    ("commandr", "CohereDecoderLayer"): "computes residual + hidden_states_attention + hidden_states_mlp",
    ("llama4", "Llama4DecoderLayer"): "self.feed_forward, not self.input_layernorm",
    ("glm4", "Glm4DecoderLayer"): "self.post_self_attn_layernorm",
}


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{_MODELS}.{module}"), name)


@pytest.mark.parametrize(("module", "layer", "mlp", "model"), TAKEN)
def test_sequences_are_taken(module: str, layer: str, mlp: str, model: str) -> None:
    assert layer_forward_lacks(_class(module, layer).forward, mlp) == []
    assert model_forward_lacks(_class(module, model)) == []


@pytest.mark.parametrize(("module", "layer"), LACKING)
def test_other_layers_are_refused_with_what_they_lack(module: str, layer: str) -> None:
    assert LACKING[module, layer] in "; ".join(layer_forward_lacks(_class(module, layer).forward, "mlp"))


def test_models_that_scale_are_refused() -> None:
    (embeds,) = model_forward_lacks(_class("gemma", "GemmaModel"))
    assert embeds == "GemmaModel.embed_input_ids does more than look rows up"
    (scales,) = model_forward_lacks(_class("granite", "GraniteModel"))
    assert scales.startswith("GraniteModel.forward computes hidden_states *= ")


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(4)
        self.self_attn = nn.Linear(4, 4)
        self.adapter = nn.Linear(4, 4)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: Any) -> torch.Tensor:
        return self.self_attn(self.input_layernorm(hidden_states))


def test_everything_that_is_missing_is_said() -> None:
    layer = _Layer()
    modules, lacks = modules_of(layer)
    assert modules is None and lacks == ["no post_attention_layernorm", "no mlp"]
    layer.post_attention_layernorm, layer.mlp = nn.LayerNorm(4), nn.Linear(4, 4)
    modules, lacks = modules_of(layer)
    text = "; ".join(lacks)
    assert modules is None
    for part in (
        "a adapter beside norms, attention and MLP",
        "input_layernorm, a LayerNorm, is no RMS norm",
        "post_attention_layernorm, a LayerNorm, is no RMS norm",
        "self_attn.o_proj sums nothing",
        "mlp has neither experts nor a down_proj",
    ):
        assert part in text
