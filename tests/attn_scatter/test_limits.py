# SPDX-License-Identifier: Apache-2.0
"""What scattered attention input refuses, on vLLM's own configuration objects, each time for one reason only."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

# (path in the configuration, value) → words of the message: the reason and what to do
CASES: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "nothing": ("", None, ()),
    "one rank": ("parallel_config.tensor_parallel_size", 1, ("of which there is one", "use more")),
    "pipeline": ("parallel_config.pipeline_parallel_size", 2, ("pipeline stages", "pipeline_parallel_size=1")),
    "decode context": ("parallel_config.decode_context_parallel_size", 2, ("context parallelism", "set it to 1")),
    "prefill context": ("parallel_config.prefill_context_parallel_size", 2, ("context parallelism",)),
    "dual batch": ("parallel_config.enable_dbo", True, ("micro-batches", "turn enable_dbo off")),
    "micro-batches": ("parallel_config.ubatch_size", 2, ("micro-batches", "ubatch_size at 0")),
    "elastic": (
        "parallel_config.enable_elastic_ep",
        True,
        ("one tensor-parallel group", "turn enable_elastic_ep"),
    ),
    "all to all": ("parallel_config.all2all_backend", "deepep_low_latency", ("'allgather_reducescatter'",)),
    "compiled": ("compilation_config.mode", "VLLM_COMPILE", ("eager mode only", "enforce_eager=True")),
    "graphs": ("compilation_config.cudagraph_mode", "FULL", ("eager mode only", "enforce_eager=True")),
    "other model": (
        "model_config.model_arch_config.architectures",
        ["GraniteForCausalLM"],
        ("DeepseekV3ForCausalLM", "not of GraniteForCausalLM"),
    ),
    "sparse": ("model_config.hf_text_config.index_topk", 2048, ("indexer of sparse attention", "dense attention")),
    "scaling": ("model_config.hf_text_config.llama_4_scaling", {"beta": 1.0}, ("llama_4_scaling",)),
    "quantised": ("model_config.quantization", "fp8", ("activation scales", "unquantised weights")),
    "half": ("model_config.dtype", "float16", ("float16", "use bfloat16")),
    "LoRA": ("lora_config", object(), ("LoRA", "turn enable_lora off")),
    "eagle": ("speculative_config.method", "eagle3", ("'eagle3'", "use one of mtp, ngram")),
}
# with "ngram" vLLM gives the target model's configuration for a draft model's
DRAFTS: dict[str, dict[str, Any]] = {
    "mtp": {"num_speculative_tokens": 1},
    "ngram": {"num_speculative_tokens": 2, "prompt_lookup_max": 3},
}


def _messages(model: str) -> dict[tuple[str, str], str]:
    def job(rank: Rank) -> dict[tuple[str, str], str]:
        return {
            (name, method): _message(model, method, path, value)
            for name, (path, value, _) in CASES.items()
            for method in DRAFTS
        }

    return run_ranks(job, Layout(), deadline_s=120)[0]


def _message(model: str, method: str, path: str, value: Any) -> str:
    """Of the refusal of a configuration that is in order but for one value."""
    import torch
    from vllm.config import CompilationMode, CUDAGraphMode
    from vllm.engine.arg_utils import EngineArgs

    from tests.support.refused import refused

    arguments = EngineArgs(
        model=model,
        tensor_parallel_size=2,
        enforce_eager=True,
        max_model_len=512,
        speculative_config={"method": method, **DRAFTS[method]},
    )
    config = arguments.create_engine_config()
    if path:
        *parents, name = path.split(".")
        owner: Any = config
        for parent in parents:
            owner = getattr(owner, parent)
        names = {"mode": CompilationMode, "cudagraph_mode": CUDAGraphMode}
        value = names[name][value] if name in names else getattr(torch, value) if name == "dtype" else value
        object.__setattr__(owner, name, value)
    return "\n".join(refused("attn_scatter", config))


@pytest.fixture(scope="module")
def messages(tiny_model: str, vllm_preloaded: None) -> dict[tuple[str, str], str]:
    return _messages(tiny_model)


@pytest.mark.parametrize("method", DRAFTS)
@pytest.mark.parametrize("name", CASES)
def test_one_value_is_refused_with_reason_and_remedy(
    messages: dict[tuple[str, str], str], name: str, method: str
) -> None:
    words, message = CASES[name][2], messages[name, method]
    if not words:
        assert message == ""
        return
    assert len(message.splitlines()) == 1
    assert message.startswith("ascend_ext.attn_scatter ")
    assert message.endswith("or set attn_scatter.enabled to false")
    for part in words:
        assert part in message
