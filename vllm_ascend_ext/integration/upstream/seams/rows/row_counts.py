# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `dp_gather.overlap_counts` and `counts_ahead`: how replicas learn each other's counts."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import Seam, members

_DEVICES = ("cpu", "cuda")
_SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"
_COORDINATE = (
    "num_tokens_unpadded",
    "allow_microbatching",
    "parallel_config",
    "num_tokens_padded",
    "uniform_decode",
    "cudagraph_mode",
)
_WHY = "vLLM waits for every replica's count before a pass begins; without graphs nothing needs them so early"
_UNTIL = "vLLM can exchange the counts beside a pass, or knows them before it"

COORDINATE_TARGET = Seam(
    "vllm.v1.worker.gpu_model_runner:coordinate_batch_across_dp",
    "replace",
    "dp_gather",
    _DEVICES,
    _WHY,
    _UNTIL,
    _COORDINATE,
)
COORDINATE_DRAFT = Seam(
    "vllm.v1.spec_decode.llm_base_proposer:coordinate_batch_across_dp",
    "replace",
    "dp_gather",
    _DEVICES,
    _WHY,
    _UNTIL,
    _COORDINATE,
)
COORDINATE = Seam(
    "vllm.v1.worker.dp_utils:coordinate_batch_across_dp",
    "read",
    "dp_gather",
    _DEVICES,
    "asked where a replica has not committed",
    _UNTIL,
    _COORDINATE,
)
_WHY_DETERMINE = "where this decides on a batch, the exchange of counts is ours: a copy whose global it is"
DETERMINE_TARGET = Seam(
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._determine_batch_execution_and_padding",
    "replace",
    "dp_gather",
    _DEVICES,
    _WHY_DETERMINE,
    _UNTIL,
    ("num_tokens",),
)
DETERMINE_DRAFT = Seam(
    "vllm.v1.spec_decode.llm_base_proposer:SpecDecodeBaseProposer._determine_batch_execution_and_padding",
    "replace",
    "dp_gather",
    _DEVICES,
    _WHY_DETERMINE,
    _UNTIL,
    ("num_tokens",),
)
_UNTIL_AHEAD = "vLLM knows a pass's counts before it, or tells its scheduler of dummies"
EXECUTE_MODEL = Seam(
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model",
    "wrap",
    "dp_gather",
    _DEVICES,
    "the scheduler's commitment about the next pass comes with what the pass runs",
    _UNTIL_AHEAD,
    ("scheduler_output",),
)
COMMITMENT = Seam(
    "vllm.v1.core.sched.output:SchedulerOutput",
    "mark",
    "dp_gather",
    _DEVICES,
    "it alone travels from the scheduler to every worker, and has no field for others",
    _UNTIL_AHEAD,
)
DUMMY_BATCH = Seam(
    "vllm.v1.engine.core:EngineCore.execute_dummy_batch",
    "replace",
    "dp_gather",
    _DEVICES,
    "a scheduler does not learn of its replica's dummies, and they cannot carry anything",
    _UNTIL_AHEAD,
    (),
)
SCHEDULER_CLASS = Seam(
    "vllm.config.scheduler:SchedulerConfig.scheduler_cls",
    "replace",
    "dp_gather",
    _DEVICES,
    "vLLM's own setting for a scheduler that commits",
    "never: it is vLLM's place for that",
)

ROWS = (
    COORDINATE_TARGET,
    COORDINATE_DRAFT,
    COORDINATE,
    DETERMINE_TARGET,
    DETERMINE_DRAFT,
    EXECUTE_MODEL,
    COMMITMENT,
    DUMMY_BATCH,
    SCHEDULER_CLASS,
    *members(
        _SCHEDULER,
        {"__init__": ("vllm_config",), "schedule": ()},
        "override",
        "dp_gather",
        _DEVICES,
        why="a schedule carries a commitment and admits nobody while one is in force",
        remove_when=_UNTIL_AHEAD,
    ),
    *members(
        _SCHEDULER,
        {
            "_pause_state": None,
            "vllm_config": None,
            "waiting": None,
            "skipped_waiting": None,
            "num_waiting_for_streaming_input": None,
            "running": None,
            "num_spec_tokens": None,
            "max_num_scheduled_tokens": None,
        },
        "read",
        "dp_gather",
        _DEVICES,
        why="says what the next pass can hold; new requests are held back by the scheduler's own state for it",
        remove_when=_UNTIL_AHEAD,
    ),
    *members(
        "vllm.v1.core.sched.interface:PauseState",
        {"UNPAUSED": None, "PAUSED_NEW": None},
        "read",
        "dp_gather",
        _DEVICES,
        why="the scheduler's state in which it admits nobody",
        remove_when=_UNTIL_AHEAD,
    ),
    *members(
        "vllm.v1.engine.core:EngineCore",
        {"scheduler": None, "model_executor": None},
        "read",
        "dp_gather",
        _DEVICES,
        why="a dummy is decided by the one and run by the other",
        remove_when=_UNTIL_AHEAD,
    ),
    Seam(
        "vllm.v1.core.sched.async_scheduler:AsyncScheduler.__init__",
        "override",
        "dp_gather",
        _DEVICES,
        "the base of our scheduler under asynchronous scheduling, whose constructor ours calls",
        _UNTIL_AHEAD,
    ),
)
