# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `mtp_output`: what a step samples, on its way from the device to the engine."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, Seam, members

_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_SCHEDULED = "vllm.v1.core.sched.output"
_RECOMPUTE = "vllm_ascend.core.recompute_scheduler"
_UNTIL = "vLLM lets a runner choose the class of its asynchronous output"
_ASYNC = "AsyncGPUModelRunnerOutput"
_WHY_ASYNC = "its constructor copies tokens and log-probabilities, one by one and on every rank"

ASYNC_OUTPUTS = (
    Seam(
        f"vllm.v1.worker.gpu_model_runner:{_ASYNC}",
        "replace",
        "mtp_output",
        DEVICES,
        _WHY_ASYNC,
        _UNTIL,
        ("model_runner_output", "sampled_token_ids"),
    ),
    Seam(
        f"vllm_ascend.worker.model_runner_v1:{_ASYNC}",
        "replace",
        "mtp_output",
        ("npu",),
        _WHY_ASYNC,
        _UNTIL,
        ("model_runner_output", "sampled_token_ids"),
    ),
)
RESET = Seam(
    "vllm.v1.core.sched.scheduler:Scheduler.reset_prefix_cache",
    "wrap",
    "mtp_output",
    DEVICES,
    "in mid-step it drops tokens that frames have, on which the engine would end",
    "vLLM lets the steps in flight end before it resets running requests",
    ("reset_running_requests",),
)
SAMPLED = Seam(
    "vllm.v1.outputs:SamplerOutput.sampled_token_ids",
    "mark",
    "mtp_output",
    DEVICES,
    "the runner hands this tensor on unchanged to where the output is made, and nothing else of the step",
    _UNTIL,
)
TOKEN_IDS = Seam(
    "vllm.v1.outputs:ModelRunnerOutput.sampled_token_ids",
    "replace",
    "mtp_output",
    DEVICES,
    "the tokens of our copy go into vLLM's output",
    _UNTIL,
)
LOGPROBS = Seam(
    "vllm.v1.outputs:ModelRunnerOutput.logprobs",
    "replace",
    "mtp_output",
    DEVICES,
    "the log-probabilities of our copy go into vLLM's output",
    _UNTIL,
)
_WHY_FACTS = "what a step begins, continues and ends, by which tokens are numbered"
_WHY_SAMPLED = "what was sampled, as it is packed and handed back"

ROWS = (
    RESET,
    *members(
        "vllm.v1.core.sched.scheduler:Scheduler",
        {"running": None, "vllm_config": None},
        "read",
        "mtp_output",
        DEVICES,
        why="whether a reset would take tokens back",
        remove_when=RESET.remove_when,
    ),
    Seam(
        "vllm.v1.request:Request.num_output_placeholders",
        "read",
        "mtp_output",
        DEVICES,
        "tokens of a request that are on their way",
        RESET.remove_when,
    ),
    *ASYNC_OUTPUTS,
    SAMPLED,
    TOKEN_IDS,
    LOGPROBS,
    *members(
        "vllm.v1.worker.gpu_model_runner:AsyncGPUModelRunnerOutput",
        {"async_copy_ready_event": None, "sampled_token_ids_cpu": None},
        "read",
        "mtp_output",
        DEVICES,
        why="the runner waits for the one and reads the other; our output has both",
        remove_when=_UNTIL,
    ),
    Seam(
        "vllm.v1.outputs:AsyncModelRunnerOutput.get_output",
        "override",
        "mtp_output",
        DEVICES,
        "our output is resolved where the engine asks for it",
        _UNTIL,
        (),
    ),
    Seam(
        "vllm.v1.worker.cpu_model_runner:CPUModelRunner._to_list",
        "override",
        "mtp_output",
        ("cpu",),
        "the tokens are on the host already",
        _UNTIL,
        ("sampled_token_ids",),
    ),
    Seam(
        f"{_RUNNER}._to_list",
        "override",
        "mtp_output",
        ("cuda", "npu"),
        "the tokens are on the host already: no stream to wait for",
        _UNTIL,
        ("sampled_token_ids",),
    ),
    *members(
        _RUNNER,
        {
            "input_batch": None,
            "discard_request_mask": None,
            "num_spec_tokens": None,
            "max_num_reqs": None,
            "max_model_len": None,
            "model_config": None,
        },
        "read",
        "mtp_output",
        DEVICES,
        why="which requests a step sampled for, and the largest step there can be",
        remove_when=_UNTIL,
    ),
    *members(
        "vllm.v1.worker.gpu_input_batch:InputBatch",
        {"req_ids": None, "num_reqs": None, "sampling_metadata": None, "vocab_size": None},
        "read",
        "mtp_output",
        DEVICES,
        why="which requests a step sampled for",
        remove_when=_UNTIL,
    ),
    *members(
        f"{_SCHEDULED}:SchedulerOutput",
        {
            "scheduled_new_reqs": None,
            "scheduled_cached_reqs": None,
            "num_scheduled_tokens": None,
            "total_num_scheduled_tokens": None,
            "finished_req_ids": None,
            "preempted_req_ids": None,
        },
        "read",
        "mtp_output",
        DEVICES,
        why=_WHY_FACTS,
        remove_when=_UNTIL,
    ),
    *members(
        _RECOMPUTE + ":RecomputeSchedulerOutput",
        {"recomputed_reqs": None},
        "read",
        "mtp_output",
        ("npu",),
        why="requests that end on a decode node without an entry in `finished_req_ids`",
        remove_when="its scheduler tells the workers of these ends as of all others",
    ),
    *members(
        _RECOMPUTE + ":RecomputeReqInfo",
        {"request_id": None},
        "read",
        "mtp_output",
        ("npu",),
        why="which request ends",
        remove_when="its scheduler tells the workers of these ends as of all others",
    ),
    *members(
        f"{_SCHEDULED}:CachedRequestData",
        {
            "req_ids": None,
            "resumed_req_ids": None,
            "all_token_ids": None,
            "num_computed_tokens": None,
            "num_output_tokens": None,
        },
        "read",
        "mtp_output",
        DEVICES,
        why=_WHY_FACTS,
        remove_when=_UNTIL,
    ),
    *members(
        f"{_SCHEDULED}:NewRequestData",
        {
            "req_id": None,
            "prompt_token_ids": None,
            "prompt_embeds": None,
            "sampling_params": None,
            "num_computed_tokens": None,
        },
        "read",
        "mtp_output",
        DEVICES,
        why=_WHY_FACTS,
        remove_when=_UNTIL,
    ),
    *members(
        "vllm.v1.spec_decode.metadata:SpecDecodeMetadata",
        {"draft_token_ids": None, "num_draft_tokens": None, "cu_num_draft_tokens": None, "max_spec_len": None},
        "read",
        "mtp_output",
        DEVICES,
        why=_WHY_SAMPLED,
        remove_when=_UNTIL,
    ),
    *members(
        "vllm.v1.outputs:LogprobsTensors",
        {
            "logprob_token_ids": None,
            "logprobs": None,
            "selected_token_ranks": None,
            "tolists": ("cu_num_generated_tokens",),
            "filter": ("mask",),
        },
        "read",
        "mtp_output",
        DEVICES,
        why=_WHY_SAMPLED,
        remove_when=_UNTIL,
    ),
    Seam(
        "vllm.v1.core.sched.utils:check_stop",
        "read",
        "mtp_output",
        DEVICES,
        "the scheduler's own rule for a request's end, asked on the worker",
        "a worker is told which of a step's tokens the engine takes",
        ("request", "max_model_len"),
    ),
    Seam(
        "vllm.utils:length_from_prompt_token_ids_or_embeds",
        "read",
        "mtp_output",
        DEVICES,
        "the length of a prompt, as the scheduler counts it",
        "a worker is told which of a step's tokens the engine takes",
        ("prompt_token_ids", "prompt_embeds"),
    ),
    Seam(
        "vllm.sampling_params:MAX_LOGPROB_TOKEN_IDS",
        "read",
        "mtp_output",
        DEVICES,
        "the most log-probabilities of a token that a request can name",
        _UNTIL,
    ),
)
