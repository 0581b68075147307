# SPDX-License-Identifier: Apache-2.0
"""Tells before anything is loaded whether any step can pay where FlashComm v1 divides the rows."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.attn_scatter.cost import RATES
from vllm_ascend_ext.attn_scatter.cut_cost import CutSizes, PayingSteps, paying_steps
from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.deployment import Deployment

_DEVICE = "npu"
_WIDTHS = ("hidden_size", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim")


def asked_steps(config: AttnScatterConfig) -> PayingSteps | None:
    """Returns the steps that the user asks for; None where they are left to the cost model."""
    return None if config.min_tokens is None else PayingSteps(config.min_tokens)


def no_step_pays(deployment: Deployment) -> object:
    """Returns {steps}, words for why no step pays by the cost model, of an engine with latent attention whose
    layers divide the rows; else None. Steps up to the largest captured one belong to graphs.

    Where the model's configuration does not say its widths, as a name alone in `check`, it is not judged.
    """
    layer = _layer(deployment.model)
    if layer is None or asked_steps(deployment.config.attn_scatter) is not None:
        return None
    steps = paying_steps([layer], deployment.parallel.tensor_parallel_size, RATES[_DEVICE])
    if steps is None:
        return {"steps": "is slower at any number of rows"}
    captured = _largest_captured(deployment)
    if steps.last is None or steps.last > captured:
        return None
    return {"steps": f"is faster in steps of {steps}, and those of up to {captured} are left to captured graphs"}


def _largest_captured(deployment: Deployment) -> int:
    compilation = deployment.vllm_config.compilation_config
    if not deployment.replays_graphs:
        return 0
    return compilation.max_cudagraph_capture_size or max(compilation.cudagraph_capture_sizes or [0])


def _layer(model: Any) -> CutSizes | None:
    """Returns the sizes of a layer by the keys of a config.json; None where one is missing."""
    config = model.hf_text_config
    widths: list[Any] = [getattr(config, key, None) for key in _WIDTHS]
    if None in widths:
        return None
    hidden, query, latent, rotary = widths
    indexer = getattr(config, "index_head_dim", 0) + getattr(config, "index_n_heads", 0)
    return CutSizes(hidden, query, latent + rotary, model.dtype.itemsize, indexer)
