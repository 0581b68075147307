# SPDX-License-Identifier: Apache-2.0
"""Builds from parsed options what the rules see of vLLM's configuration, as vllm-ascend's platform completes it.

vLLM's own classes are filled without their checks, which ask for devices, files and kernels; so defaults and
properties are vLLM's.
"""

from __future__ import annotations

import argparse
import math
from types import SimpleNamespace
from typing import Any, get_args

from vllm_ascend_ext.tools.check.ascend_choice import CommandStack
from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.model_facts import ModelFacts

_DTYPES = {"half": "float16", "float": "float32"}


def build(options: argparse.Namespace, facts: ModelFacts, stack: CommandStack) -> Any:
    """Returns the configuration that rules are asked about; raises CommandError for values that vLLM refuses.

    stack: says what vllm-ascend's platform makes of it.
    """
    additional = dict(options.additional_config or {})
    speculative = _speculative(options, facts)
    is_eager = bool(_xlite(additional).get("full_mode")) and speculative is None
    model = _model(options, facts, is_eager)
    compilation = _compilation(options, model, additional)
    return SimpleNamespace(
        parallel_config=_parallel(options, stack.keeps_all2all_backend(compilation, additional)),
        model_config=model,
        speculative_config=speculative,
        compilation_config=compilation,
        scheduler_config=SimpleNamespace(
            scheduler_cls=options.scheduler_cls, async_scheduling=options.async_scheduling
        ),
        kv_transfer_config=options.kv_transfer_config,
        ec_transfer_config=options.ec_transfer_config,
        lora_config=SimpleNamespace() if options.enable_lora else None,
        additional_config=additional,
        quant_config=SimpleNamespace(quant_description=facts.described_layers) if model.quantization else None,
        use_v2_model_runner=stack.uses_second_runner(),
    )


def _unchecked(kind: Any, **values: Any) -> Any:
    """Returns an instance of one of vLLM's configuration classes with defaults, none of which is checked."""
    fields = kind.__pydantic_fields__.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields if name not in values}
    return type(kind.__name__, (kind,), {"__init__": lambda _: None} | defaults | values)()


def _parallel(options: argparse.Namespace, keeps_all2all_backend: bool) -> Any:
    from vllm.config import ParallelConfig

    options_of = {name: getattr(options, name, None) for name in ParallelConfig.__pydantic_fields__}
    known: dict[str, Any] = {name: value for name, value in options_of.items() if value is not None}
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
    known["world_size"] = math.prod(known[name] for name in sizes)
    if not keeps_all2all_backend:
        known["all2all_backend"] = "flashinfer_all2allv"  # which turns vLLM's sequence-parallel experts off
    return _unchecked(ParallelConfig, **known)


def _speculative(options: argparse.Namespace, facts: ModelFacts) -> Any:
    from vllm.config import SpeculativeConfig
    from vllm.config.speculative import MTPModelTypes

    given = options.speculative_config
    if not given:
        return None
    known = {name: value for name, value in given.items() if name in SpeculativeConfig.__pydantic_fields__}
    model = str(given.get("model") or "").lower()
    named = next((name for name in ("eagle3", "eagle", "dflash", "ngram") if name in model), "draft_model")
    method = given.get("method") or named
    if method in get_args(MTPModelTypes):
        method = "mtp"
    known |= {"method": method, "parallel_drafting": method == "dflash" or bool(given.get("parallel_drafting"))}
    return _unchecked(SpeculativeConfig, **known)


def _xlite(additional: dict[str, Any]) -> dict[str, Any]:
    xlite = additional.get("xlite_graph_config")
    return xlite if isinstance(xlite, dict) and xlite.get("enabled") else {}


def _model(options: argparse.Namespace, facts: ModelFacts, is_eager: bool) -> Any:
    import torch

    text = facts.text_namespace
    stored = facts.config.get("dtype") or facts.config.get("torch_dtype") or facts.text_config.get("dtype")
    dtype = str(options.dtype)
    if dtype == "auto":  # of float32 weights vLLM takes the platform's first choice
        dtype = "float16" if str(stored) == "float16" else "bfloat16"
    dtype = _DTYPES.get(dtype, dtype)
    return SimpleNamespace(
        model=facts.name,
        architectures=list(facts.config.get("architectures") or ()),
        hf_text_config=text,
        is_moe=facts.num_experts > 0,
        get_num_experts=lambda: facts.num_experts,
        num_experts_per_tok=facts.top_k,
        quantization=options.quantization or facts.quantization,
        enforce_eager=bool(options.enforce_eager) or is_eager,
        dtype=getattr(torch, dtype, torch.bfloat16),
        max_logprobs=options.max_logprobs,
        runner_type="generate" if options.runner == "auto" else options.runner,
        enable_return_routed_experts=bool(options.enable_return_routed_experts),
        enable_prompt_embeds=bool(options.enable_prompt_embeds),
    )


def _compilation(options: argparse.Namespace, model: Any, additional: dict[str, Any]) -> Any:
    from vllm.config import CompilationConfig, CompilationMode, CUDAGraphMode

    given = dict(vars(options.compilation_config)) if options.compilation_config else {}
    mode, graphs = given.get("mode"), given.get("cudagraph_mode")
    if _xlite(additional):
        graphs = CUDAGraphMode.FULL_DECODE_ONLY
    has_none = str(options.optimization_level) == "0" and graphs is None
    if model.enforce_eager or has_none or mode == CompilationMode.NONE or graphs == CUDAGraphMode.NONE:
        mode, graphs = CompilationMode.NONE, CUDAGraphMode.NONE
    elif graphs is None:
        graphs = CUDAGraphMode.FULL_AND_PIECEWISE  # vLLM's default, which vllm-ascend keeps
    if mode is None:
        mode = CompilationMode.VLLM_COMPILE
    if not isinstance(graphs, CUDAGraphMode):
        raise CommandError(f"cudagraph_mode {graphs!r} is not one of vLLM's; choose one")
    return _unchecked(CompilationConfig, **{**given, "mode": mode, "cudagraph_mode": graphs})
