# SPDX-License-Identifier: Apache-2.0
"""What scattered attention input refuses at start-up, with the reason and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.draft_model import is_draft

# architectures whose decoder layers `attn_scatter` knows how to take apart
ARCHITECTURES = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Qwen3MoeForCausalLM")
_DRAFTS = ("mtp", "ngram")
_OFF = "or set attn_scatter.enabled to false"


def check(vllm_config: Any, config: AttnScatterConfig, *, verified: bool) -> None:
    """Raises UnsupportedCombinationError with the first thing that stands against it.

    verified: on this kind of device.
    """
    if is_draft(vllm_config):
        return  # its layers stay as they are
    limits = (
        *_device_limits(vllm_config, verified),
        *_parallel_limits(vllm_config.parallel_config),
        *_model_limits(vllm_config.model_config),
        *_engine_limits(vllm_config),
    )
    for reason in limits:
        raise UnsupportedCombinationError(f"ascend_ext.attn_scatter {reason}")
    if config.fp8_wire and not config.full:
        raise UnsupportedCombinationError(
            "ascend_ext.attn_scatter.fp8_wire is for the gather before the experts, which only full has; set "
            "attn_scatter.full to true, or fp8_wire to false"
        )


def _device_limits(vllm_config: Any, verified: bool) -> Iterator[str]:
    if not verified:
        yield (
            "takes vLLM's own layers apart, and vllm-ascend brings others, with a sharding of their own "
            f"(enable_flashcomm1), of which both at once would reduce twice; use that one there, {_OFF}"
        )
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation_config = vllm_config.compilation_config
    if compilation_config.mode not in (None, CompilationMode.NONE) or compilation_config.cudagraph_mode not in (
        None,
        CUDAGraphMode.NONE,
    ):
        yield f"decides in each step and is verified in eager mode only; set enforce_eager=True, {_OFF}"


def _parallel_limits(parallel_config: Any) -> Iterator[str]:
    if parallel_config.tensor_parallel_size == 1:
        yield f"divides rows among tensor-parallel ranks, of which there is one; use more, {_OFF}"
    if parallel_config.pipeline_parallel_size > 1:
        yield (
            "would send partial sums between pipeline stages, for there is no adaptor yet; set "
            f"pipeline_parallel_size=1, {_OFF}"
        )
    if parallel_config.decode_context_parallel_size > 1 or parallel_config.prefill_context_parallel_size > 1:
        yield f"is not verified with context parallelism, which divides rows too; set it to 1, {_OFF}"
    if parallel_config.use_ubatching:
        yield f"is not verified with micro-batches; turn enable_dbo off and leave ubatch_size at 0, {_OFF}"
    if parallel_config.enable_elastic_ep:
        yield f"binds to one tensor-parallel group; turn enable_elastic_ep off, {_OFF}"
    if parallel_config.all2all_backend != "allgather_reducescatter":
        yield (
            f"is not verified with all2all_backend={parallel_config.all2all_backend!r}, whose combine may reduce "
            f"by itself; use 'allgather_reducescatter', {_OFF}"
        )


def _model_limits(model_config: Any) -> Iterator[str]:
    if model_config is None:
        return
    architectures = list(model_config.architectures)
    if not set(architectures) & set(ARCHITECTURES):
        yield (
            f"knows the layers of {', '.join(ARCHITECTURES)}, not of {', '.join(architectures)}; use one of "
            f"these models, {_OFF}"
        )
    text_config = model_config.hf_text_config
    if hasattr(text_config, "index_topk"):
        yield f"gathers no rows for the indexer of sparse attention; use a model with dense attention, {_OFF}"
    if getattr(text_config, "llama_4_scaling", None) is not None:
        yield f"is not verified with llama_4_scaling; use a model without, {_OFF}"
    if model_config.quantization:
        yield (
            f"is not verified with quantization={model_config.quantization!r}: activation scales of a whole batch "
            f"would differ on a shard; use unquantised weights, {_OFF}"
        )
    if model_config.dtype == torch.float16:
        yield (
            f"skips the rescaling by which DeepSeek's layers keep within float16; use bfloat16 or float32, {_OFF}"
        )


def _engine_limits(vllm_config: Any) -> Iterator[str]:
    if vllm_config.lora_config is not None:
        yield f"reads the embedding and the projections below LoRA's; turn enable_lora off, {_OFF}"
    speculative_config = vllm_config.speculative_config
    if speculative_config is not None and speculative_config.method not in _DRAFTS:
        yield (
            f"is not verified with speculative method {speculative_config.method!r}; use one of "
            f"{', '.join(_DRAFTS)}, {_OFF}"
        )
