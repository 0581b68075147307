# SPDX-License-Identifier: Apache-2.0
"""Refuses what the CPU platform cannot run: at start-up, in the parent process, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def refuse_unsupported(vllm_config: VllmConfig) -> None:
    """Raises UnsupportedCombinationError with a line for each setting that has no implementation here."""
    if reasons := [*_engine_limits(vllm_config), *_model_limits(vllm_config)]:
        raise UnsupportedCombinationError("\n".join(reasons))


def _engine_limits(vllm_config: VllmConfig) -> Iterator[str]:
    parallel_config = vllm_config.parallel_config
    cache_dtype = vllm_config.cache_config.cache_dtype
    if parallel_config.pipeline_parallel_size > 1:
        yield "pipeline parallelism is not implemented on the CPU platform; set pipeline_parallel_size=1"
    if parallel_config.decode_context_parallel_size > 1 or parallel_config.prefill_context_parallel_size > 1:
        yield "context parallelism is not implemented on the CPU platform; set it to 1"
    if parallel_config.use_ubatching:
        yield "micro-batches are not implemented on the CPU platform; turn enable_dbo off, leave ubatch_size at 0"
    if parallel_config.all2all_backend != "allgather_reducescatter":
        yield (
            f"all2all_backend={parallel_config.all2all_backend!r} does not exist on the CPU platform; use "
            "'allgather_reducescatter'"
        )
    if cache_dtype not in ("auto", "bfloat16", "float16"):
        yield f"kv_cache_dtype={cache_dtype!r} is not implemented on the CPU platform; use 'auto'"
    if vllm_config.kv_transfer_config is not None:
        yield "KV transfer is not tested on the CPU platform; remove kv_transfer_config"
    if vllm_config.use_v2_model_runner:
        yield "the CPU platform runs vLLM's V1 model runner; set VLLM_USE_V2_MODEL_RUNNER=0"


def _model_limits(vllm_config: VllmConfig) -> Iterator[str]:
    model_config = vllm_config.model_config
    if model_config is None:
        return
    if model_config.quantization:
        yield (
            f"quantization {model_config.quantization!r} is not implemented on the CPU platform; use bfloat16 or "
            "float32 weights"
        )
    if model_config.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        yield f"dtype {model_config.dtype} is not implemented on the CPU platform; use float32 or bfloat16"
    if hasattr(model_config.hf_text_config, "index_topk"):
        yield "sparse attention (DeepSeek-V3.2) has no CPU implementation; use a model with dense MLA"
    if model_config.is_moe and vllm_config.lora_config is not None:
        yield "LoRA on mixture-of-experts layers is not implemented on the CPU platform; turn enable_lora off"
