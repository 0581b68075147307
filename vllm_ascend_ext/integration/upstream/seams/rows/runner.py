# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of the model runner and the worker, whatever feature is on."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import ON_0_23, ON_0_30, Seam, members

_GPU_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_NPU_RUNNER = "vllm_ascend.worker.model_runner_v1:NPUModelRunner"
_GPU_WORKER = "vllm.v1.worker.gpu_worker:Worker"
_NPU_WORKER = "vllm_ascend.worker.worker:NPUWorker"

_WHY_BUILD = "`init_device` builds the runner of this name, and there is no setting for another class"
_UNTIL_BUILD = "a worker can be told its runner's class"

CUDA_RUNNER = Seam(_GPU_RUNNER, "replace", "runner", ("cuda",), _WHY_BUILD, _UNTIL_BUILD)
NPU_RUNNER = Seam(
    "vllm_ascend.worker.worker:NPUModelRunner", "replace", "runner", ("npu",), _WHY_BUILD, _UNTIL_BUILD
)

_WHY_STEP = (
    "the runner has no hooks around a step: our mixin redefines the methods in front of the device's own runner"
)
_UNTIL_STEP = "vLLM has hooks before a forward, after sampling and at a step's end"
_STEP: dict[str, tuple[str, ...] | None] = {
    "execute_model": ("scheduler_output",),
    "sample_tokens": ("grammar_output",),
    "_sample": ("logits", "spec_decode_metadata"),
    "_bookkeeping_sync": ("scheduler_output", "sampler_output"),
    "_model_forward": ("input_ids", "inputs_embeds"),
    "_dummy_run": ("num_tokens",),
}
_WHY_WORKER = "the worker's life: our mixin builds the runner, binds the features and ends them"
_UNTIL_WORKER = "features bind without a worker of their own"
_WORKER: dict[str, tuple[str, ...] | None] = {
    "init_device": (),
    "load_model": (),
    "execute_dummy_batch": (),
    "shutdown": (),
}
_WHY_WEIGHTS = "weights load where experts were at first, also after EPLB has moved them: tokens are wrong then"
_UNTIL_WEIGHTS = "weights load by the present placement (https://github.com/vllm-project/vllm/issues/55228)"
_WEIGHTS: dict[str, tuple[str, ...] | None] = {"start_weight_update": ("is_checkpoint_format",)}

_WHY_EMBEDS = (
    "where prompts may be embeddings and there are drafts, all prompts get wrong tokens, or an error that ends "
    "the engine"
)
_UNTIL_EMBEDS = "vLLM marks the rows behind a prompt as tokens, and its drafter needs no ids of embedded prompts"
_EMBEDS = "https://github.com/vllm-project/vllm/pull/57356"
TOKEN_ID = Seam(
    "vllm.v1.worker.gpu_input_batch:CachedRequestState.get_token_id",
    "wrap",
    "runner",
    ("cpu", "cuda"),
    _WHY_EMBEDS,
    _UNTIL_EMBEDS,
    ("idx",),
    "https://github.com/vllm-project/vllm/pull/37170",
)
_MENDED = (
    TOKEN_ID,
    Seam(
        f"{_GPU_RUNNER}._input_fits_in_drafter",
        "override",
        "runner",
        ("cpu", "cuda"),
        "a replica that skips its drafts near the longest sequence leaves the others waiting in theirs",
        "vLLM runs dummy drafts in such a step",
        ("common_attn_metadata",),
        "https://github.com/vllm-project/vllm/pull/44954",
    ),
    Seam(
        f"{_GPU_RUNNER}._prepare_input_ids",
        "override",
        "runner",
        ("cpu", "cuda"),
        _WHY_EMBEDS,
        _UNTIL_EMBEDS,
        ("scheduler_output", "num_reqs", "total_num_scheduled_tokens", "cu_num_tokens"),
        _EMBEDS,
    ),
    Seam(
        f"{_GPU_RUNNER}.__init__",
        "override",
        "runner",
        ("cuda",),
        _WHY_EMBEDS,
        _UNTIL_EMBEDS,
        ("vllm_config", "device"),
        _EMBEDS,
    ),
    *members(
        _GPU_RUNNER,
        {"enable_prompt_embeds": None, "is_token_ids": None, "input_ids": None, "input_batch": None},
        "read",
        "runner",
        ("cpu", "cuda"),
        why=_WHY_EMBEDS,
        remove_when=_UNTIL_EMBEDS,
    ),
    *members(
        "vllm.v1.spec_decode.llm_base_proposer:SpecDecodeBaseProposer",
        {"dummy_run": ("num_tokens",)},
        "read",
        "runner",
        ("cpu", "cuda"),
        why="runs the drafter as an idle replica does",
        remove_when="vLLM runs dummy drafts in such a step",
    ),
)

ROWS = (
    CUDA_RUNNER,
    NPU_RUNNER,
    *_MENDED,
    *members(
        _GPU_RUNNER,
        _STEP | {"_dummy_run": ("num_tokens", "skip_eplb", "is_profile")},
        "override",
        "runner",
        ("cpu", "cuda"),
        why=_WHY_STEP,
        remove_when=_UNTIL_STEP,
    ),
    *members(
        _NPU_RUNNER,
        _STEP
        | {
            "_model_forward": ("num_tokens_padded", "input_ids", "inputs_embeds"),
            "_dummy_run": ("num_tokens", "is_profile", "skip_eplb"),
        },
        "override",
        "runner",
        ("npu",),
        why=_WHY_STEP,
        remove_when=_UNTIL_STEP,
    ),
    *members(
        _GPU_WORKER,
        {name: _WORKER[name] for name in ("load_model", "execute_dummy_batch", "shutdown")},
        "override",
        "runner",
        ("cpu", "cuda"),
        why=_WHY_WORKER,
        remove_when=_UNTIL_WORKER,
    ),
    *members(
        _GPU_WORKER,
        {"init_device": ()},
        "override",
        "runner",
        ("cuda",),
        why=_WHY_WORKER,
        remove_when=_UNTIL_WORKER,
    ),
    *members(
        _GPU_WORKER,
        {"reload_weights": (), **_WEIGHTS},
        "override",
        "runner",
        ("cpu", "cuda"),
        why=_WHY_WEIGHTS,
        remove_when=_UNTIL_WEIGHTS,
    ),
    *(
        seam
        for pairs, weights in ((ON_0_23, _WEIGHTS), (ON_0_30, {"start_weight_update": ()}))
        for seam in members(
            _NPU_WORKER,
            weights,
            "override",
            "runner",
            ("npu",),
            why=_WHY_WEIGHTS,
            remove_when=_UNTIL_WEIGHTS,
            pairs=pairs,
        )
    ),
    *members(_NPU_WORKER, _WORKER, "override", "runner", ("npu",), why=_WHY_WORKER, remove_when=_UNTIL_WORKER),
    *members(
        _GPU_RUNNER,
        {
            "get_model": (),
            "device": None,
            "parallel_config": None,
            "scheduler_config": None,
            "speculative_config": None,
            "compilation_config": None,
            "drafter": None,
        },
        "read",
        "runner",
        ("cpu", "cuda", "npu"),
        why="the facts that features are bound by; the runner gives them no other way",
        remove_when=_UNTIL_WORKER,
    ),
)
