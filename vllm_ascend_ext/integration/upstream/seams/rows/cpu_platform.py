# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of the CPU platform: the configuration, the worker, the runner and what ranks exchange."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import Seam, members

_CPU = ("cpu",)
_PLATFORM = "vllm.platforms.cpu:CpuPlatform"
_COMMUNICATOR = "vllm.distributed.device_communicators.base_device_communicator:DeviceCommunicatorBase"

GATE_OF_EPLB = Seam(
    "vllm.config.parallel:current_platform",
    "replace",
    "cpu_platform",
    _CPU,
    "enable_eplb is refused unless the platform says it is CUDA-alike; all else is passed on",
    "the check asks for a capability instead of a device",
)
PLACEHOLDER_STREAMS = Seam(
    "vllm.v1.worker.cpu_model_runner:_torch_cuda_wrapper",
    "replace",
    "cpu_platform",
    _CPU,
    "vLLM wraps its constructor in placeholders that lack most methods of a stream and an event",
    "vLLM's placeholders have the methods of a stream and an event",
    (),
)
_WHY_CONFIG = "the platform's hook sets what the device cannot do otherwise"
_UNTIL_CONFIG = "never: the configuration is what the hook may change"
MODE, CUSTOM_OPS = (
    Seam(
        f"vllm.config.compilation:CompilationConfig.{name}",
        "replace",
        "cpu_platform",
        _CPU,
        _WHY_CONFIG,
        _UNTIL_CONFIG,
    )
    for name in ("mode", "custom_ops")
)
USE_ASYNC, COMMUNICATOR = (
    Seam(f"vllm.config.parallel:EPLBConfig.{name}", "replace", "cpu_platform", _CPU, _WHY_CONFIG, _UNTIL_CONFIG)
    for name in ("use_async", "communicator")
)
WORKER_CLASS, GROUP_TIMEOUT, EXECUTOR = (
    Seam(
        f"vllm.config.parallel:ParallelConfig.{name}", "replace", "cpu_platform", _CPU, _WHY_CONFIG, _UNTIL_CONFIG
    )
    for name in ("worker_cls", "cpu_distributed_timeout_seconds", "distributed_executor_backend")
)
ASYNC_SCHEDULING, CHUNKED_PREFILL, BATCHED_TOKENS = (
    Seam(
        f"vllm.config.scheduler:SchedulerConfig.{name}",
        "replace",
        "cpu_platform",
        _CPU,
        "vLLM's hook turns it off only for lack of an implementation",
        "vLLM's CPU backend has one",
    )
    for name in ("async_scheduling", "enable_chunked_prefill", "max_num_batched_tokens")
)
ROW_COUNTS = Seam(
    "vllm.v1.worker.dp_utils:_run_ar",
    "replace",
    "cpu_platform",
    _CPU,
    "vLLM waits for a silent replica for half an hour, whatever its timeouts are, and names no rank",
    "vLLM's device groups take a timeout",
    (
        *("should_ubatch", "orig_num_tokens_per_ubatch", "padded_num_tokens_per_ubatch"),
        *("cudagraph_mode", "parallel_config"),
    ),
)
_WHY_COUNTS = (
    "vLLM's CPU runner drops the assignment, and asynchronous scheduling then takes all drafts for accepted"
)

ROWS = (
    GATE_OF_EPLB,
    PLACEHOLDER_STREAMS,
    MODE,
    CUSTOM_OPS,
    USE_ASYNC,
    COMMUNICATOR,
    WORKER_CLASS,
    GROUP_TIMEOUT,
    EXECUTOR,
    ROW_COUNTS,
    ASYNC_SCHEDULING,
    CHUNKED_PREFILL,
    BATCHED_TOKENS,
    *members(
        _PLATFORM,
        {
            "import_kernels": (),
            "get_attn_backend_cls": ("selected_backend", "attn_selector_config", "num_heads"),
            "get_device_communicator_cls": (),
            "check_and_update_config": ("vllm_config",),
        },
        "override",
        "cpu_platform",
        _CPU,
        why="torch in place of the compiled extension",
        remove_when="vLLM's CPU backend runs without its compiled extension",
    ),
    *members(
        "vllm.v1.worker.cpu_worker:CPUWorker",
        {
            "__init__": ("vllm_config", "local_rank", "rank", "distributed_init_method", "is_driver_worker"),
            "init_device": (),
        },
        "override",
        "cpu_platform",
        _CPU,
        why="vLLM's binds threads, disables torch.set_num_threads and looks for preloaded allocators",
        remove_when="vLLM's worker leaves that to the platform",
    ),
    Seam(
        "vllm.v1.worker.gpu_worker:init_worker_distributed_environment",
        "read",
        "cpu_platform",
        _CPU,
        "the part of `init_device` that is needed",
        "vLLM's worker leaves the rest to the platform",
        ("vllm_config", "rank", "distributed_init_method", "local_rank", "backend"),
    ),
    *members(
        "vllm.v1.worker.cpu_model_runner:CPUModelRunner",
        {
            "__init__": ("vllm_config", "device"),
            "load_model": ("load_dummy_weights",),
            "_copy_valid_sampled_token_count": ("next_token_ids", "valid_sampled_tokens_count"),
        },
        "override",
        "cpu_platform",
        _CPU,
        why="vLLM's CPU runner forgets EPLB and the acceptance counts of asynchronous scheduling",
        remove_when="vLLM's CPU runner calls on to the GPU runner's methods",
    ),
    *members(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
        {
            "eplb_state": None,
            "_moe_model": None,
            "valid_sampled_token_count_gpu": None,
            "use_async_spec_decode": None,
        },
        "read",
        "cpu_platform",
        _CPU,
        why=_WHY_COUNTS + "; its override of `load_model` forgets EPLB",
        remove_when="vLLM's CPU runner calls on to the GPU runner's methods",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner:EplbState",
        "read",
        "cpu_platform",
        _CPU,
        "the class that the GPU runner looks up, too",
        "vLLM's CPU runner calls on to the GPU runner's methods",
        ("parallel_config", "device"),
    ),
    Seam(
        "vllm.distributed.eplb.eplb_state:EplbState.add_model",
        "read",
        "cpu_platform",
        _CPU,
        "hands a loaded model to EPLB",
        "vLLM's CPU runner calls on to the GPU runner's methods",
        ("model", "model_config"),
    ),
    *members(
        _COMMUNICATOR,
        {
            "__init__": (),
            "all_reduce": ("input_",),
            "all_gather": ("input_", "dim"),
            "all_gatherv": ("input_", "dim", "sizes"),
            "reduce_scatter": ("input_", "dim"),
            "reduce_scatterv": ("input_", "dim", "sizes"),
            "gather": ("input_", "dst", "dim"),
            "dispatch_router_logits": ("hidden_states", "router_logits"),
            "dispatch": ("hidden_states", "topk_weights", "topk_ids"),
            "combine": ("hidden_states",),
        },
        "override",
        "cpu_platform",
        _CPU,
        why="vLLM's has no variable collectives on the CPU, and its shared-memory path needs the extension",
        remove_when="vLLM's CPU communicator has the variable collectives and a deadline",
    ),
    *members(
        _COMMUNICATOR,
        {
            "device_group": None,
            "cpu_group": None,
            "unique_name": None,
            "use_all2all": None,
            "all2all_manager": None,
            "world_size": None,
        },
        "read",
        "cpu_platform",
        _CPU,
        why="the group that the communicator is of",
        remove_when="vLLM's CPU communicator has the variable collectives and a deadline",
    ),
)
