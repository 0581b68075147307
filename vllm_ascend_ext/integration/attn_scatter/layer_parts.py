# SPDX-License-Identifier: Apache-2.0
"""Calls single parts of vLLM's layers: an attention, a norm and a router."""

from __future__ import annotations

from typing import Any

import torch

from vllm_ascend_ext.attn_scatter.layers import Norm


def attend(attention: Any, takes_scaling: bool, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Returns what an attention of vLLM makes of the rows, this rank's addend."""
    scaling = {"llama_4_scaling": None} if takes_scaling else {}
    return attention(positions=positions, hidden_states=x, **scaling)


def takes_scaling(attention: Any) -> bool:
    """Returns whether an attention is called with a scaling of its queries, as DeepSeek's are."""
    from vllm.model_executor.models.deepseek_v2 import DeepseekV2Attention, DeepseekV2MLAAttention

    return isinstance(attention, DeepseekV2Attention | DeepseekV2MLAAttention)


def route(gate: Any, x: torch.Tensor) -> torch.Tensor:
    """Returns the logits of a router, which some models keep in float32 and give rows of that type, and of which
    some return a pair."""
    is_router = hasattr(gate, "out_dtype")  # vLLM's own, which takes rows of any type
    logits = gate(x if is_router else x.to(gate.weight.dtype))
    return logits[0] if isinstance(logits, tuple) else logits


def norm(module: Any) -> Norm:
    """Returns what the core knows of a norm of vLLM."""
    return Norm(module.weight.data, module.variance_epsilon, module)
