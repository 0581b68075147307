# SPDX-License-Identifier: Apache-2.0
"""What MTP output saving cannot be combined with, refused at start-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm_ascend_ext.config import MtpOutputConfig
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.draft_model import is_draft
from vllm_ascend_ext.mtp_output.outlet import replica_endpoint

EXECUTORS = ("mp", "uni", "external_launcher")


def check(vllm_config: Any, config: MtpOutputConfig) -> None:
    """Raises UnsupportedCombinationError with the first setting that it cannot be combined with."""
    for reason in _limits(vllm_config, config):
        raise UnsupportedCombinationError(f"ascend_ext.mtp_output {reason}")


def _limits(vllm_config: Any, config: MtpOutputConfig) -> Iterator[str]:
    parallel_config, model_config = vllm_config.parallel_config, vllm_config.model_config
    if (config.transport == "zmq") != bool(config.endpoint):
        yield "needs `endpoint` with transport 'zmq' and takes none with 'ring'"
    if config.transport == "zmq":
        if config.reader == "none":
            yield "has 'zmq' for a reader on another host; set reader to 'required' or transport to 'ring'"
        try:
            replica_endpoint(config.endpoint, parallel_config.data_parallel_size - 1)
        except ValueError as error:
            yield str(error)
    if parallel_config.pipeline_parallel_size > 1 or parallel_config.prefill_context_parallel_size > 1:
        yield (
            "is not tested with pipeline or prefill-context parallelism; set pipeline_parallel_size and "
            "prefill_context_parallel_size to 1"
        )
    if parallel_config.distributed_executor_backend not in (None, *EXECUTORS):
        yield (
            f"knows which rank's output the engine takes of the executors {', '.join(EXECUTORS)}, not of "
            f"{parallel_config.distributed_executor_backend!r}; set distributed_executor_backend to one of them"
        )
    if parallel_config.enable_elastic_ep:
        yield "has a fixed set of replicas; turn enable_elastic_ep off"
    kv_transfer = vllm_config.kv_transfer_config
    if kv_transfer is not None and kv_transfer.kv_load_failure_policy == "recompute":
        yield (
            "cannot take back tokens that were sent, as kv_load_failure_policy='recompute' does; set it to "
            "'fail': a request whose load fails then ends, but its frames may hold tokens of its last steps that "
            "the engine does not put out"
        )
    speculative_config = vllm_config.speculative_config
    if speculative_config is not None and speculative_config.method == "ngram_gpu":
        yield "and method 'ngram_gpu', which schedules on the device, do not work together; use 'ngram'"
    if model_config is None or is_draft(vllm_config):
        return
    if model_config.runner_type != "generate":
        yield f"sends tokens, and a {model_config.runner_type} model has none; set mtp_output.enabled to false"
    if model_config.max_logprobs < 0:
        yield "copies at most `max_logprobs` log-probabilities, and -1 is a whole vocabulary; set it to 20 or so"
    if model_config.enable_return_routed_experts:
        yield "and enable_return_routed_experts both replace the copy of a step's output; turn one off"
