# SPDX-License-Identifier: Apache-2.0
"""Lists what scattered attention input cannot work with, before anything is loaded."""

from __future__ import annotations

import torch

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.rule_facts import quantization

# architectures that tests have run; `layer_kind` says what is missing in the layers of another
ARCHITECTURES = (
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "Glm4MoeForCausalLM",
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
)
# more of them, with vLLM's own layers
VLLM_ARCHITECTURES = (
    "Ernie4_5_MoeForCausalLM",
    "LlamaForCausalLM",
    "MiniMaxM2ForCausalLM",
    "OlmoeForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
)
# more of them, with vllm-ascend's
ASCEND_ARCHITECTURES = ("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
_DRAFTS = ("mtp", "ngram")
_OFF = "or set attn_scatter.enabled to false"
_GATHERS = "allgather_reducescatter"


def _has_other_backend(deployment: Deployment) -> object:
    backend = deployment.parallel.all2all_backend
    return {"backend": repr(backend)} if deployment.stack.name == "vllm" and backend != _GATHERS else None


def _has_other_layers(deployment: Deployment) -> object:
    architectures = [] if deployment.model is None else list(deployment.model.architectures)
    more = VLLM_ARCHITECTURES if deployment.stack.name == "vllm" else ASCEND_ARCHITECTURES
    known = (*ARCHITECTURES, *more)
    if deployment.model is None or set(architectures) & set(known):
        return None
    return {"known": ", ".join(known), "found": ", ".join(architectures) or "none"}


def _other_drafts(deployment: Deployment) -> object:
    method = deployment.speculative_method
    return None if method is None or method in _DRAFTS else {"method": repr(method)}


def _has_sparse_attention(deployment: Deployment) -> bool:
    return deployment.model is not None and hasattr(deployment.model.hf_text_config, "index_topk")


def _scales_queries(deployment: Deployment) -> bool:
    model = deployment.model
    return model is not None and getattr(model.hf_text_config, "llama_4_scaling", None) is not None


RULES = (
    Rule(
        "enforce_eager",
        "decides in each step and is verified in eager mode only",
        f"set enforce_eager=True, {_OFF}",
        lambda d: d.in_graphs,
        stack="vllm",
    ),
    Rule(
        "model",
        "gathers no rows for the indexer of sparse attention",
        f"use a model with dense attention, {_OFF}",
        _has_sparse_attention,
        stack="vllm",
    ),
    Rule(
        "quantization",
        "is not verified with quantization={method}: activation scales of a whole batch would differ on a shard",
        f"use unquantised weights, {_OFF}",
        quantization,
        stack="vllm",
    ),
    *(
        Rule(setting, why, f"{instead}, {_OFF}", refuses)
        for setting, why, instead, refuses in (
            (
                "tensor_parallel_size",
                "divides rows among tensor-parallel ranks, of which there is one",
                "use more",
                lambda d: d.parallel.tensor_parallel_size == 1,
            ),
            (
                "pipeline_parallel_size",
                "would send partial sums between pipeline stages, for there is no adaptor yet",
                "set pipeline_parallel_size=1",
                lambda d: d.parallel.pipeline_parallel_size > 1,
            ),
            (
                "prefill_context_parallel_size, decode_context_parallel_size",
                "is not verified with context parallelism, which divides rows too",
                "set it to 1",
                lambda d: (
                    max(d.parallel.decode_context_parallel_size, d.parallel.prefill_context_parallel_size) > 1
                ),
            ),
            (
                "enable_dbo, ubatch_size",
                "is not verified with micro-batches",
                "turn enable_dbo off and leave ubatch_size at 0",
                lambda d: d.parallel.use_ubatching,
            ),
            (
                "enable_elastic_ep",
                "binds to one tensor-parallel group",
                "turn enable_elastic_ep off",
                lambda d: d.parallel.enable_elastic_ep,
            ),
            (
                "all2all_backend",
                "is not verified with all2all_backend={backend}, whose combine may reduce by itself",
                f"use '{_GATHERS}'",
                _has_other_backend,
            ),
            (
                "model",
                "knows the layers of {known}, not of {found}",
                "use one of these models",
                _has_other_layers,
            ),
            (
                "model",
                "is not verified with llama_4_scaling",
                "use a model without",
                _scales_queries,
            ),
            (
                "dtype",
                "skips the rescaling by which DeepSeek's layers keep within float16",
                "use bfloat16 or float32",
                lambda d: d.model is not None and d.model.dtype == torch.float16,
            ),
            (
                "enable_lora",
                "reads the embedding and the projections below LoRA's",
                "turn enable_lora off",
                lambda d: d.vllm_config.lora_config is not None,
            ),
            (
                "speculative_config.method",
                "is not verified with speculative method {method}",
                f"use one of {', '.join(_DRAFTS)}",
                _other_drafts,
            ),
        )
    ),
    Rule(
        "attn_scatter.fp8_wire",
        "is for the gather before the experts, which only full has",
        "set attn_scatter.full to true, or fp8_wire to false",
        lambda d: d.config.attn_scatter.fp8_wire and not d.config.attn_scatter.full,
        key="fp8_wire",
    ),
)
