# SPDX-License-Identifier: Apache-2.0
"""Lists what MTP output cannot work with, before anything is loaded."""

from __future__ import annotations

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.ranks.place import local_replicas
from vllm_ascend_ext.integration.refusal import Rule
from vllm_ascend_ext.integration.upstream.engine_process import is_part_of_an_engine
from vllm_ascend_ext.mtp_output.outlet import replica_endpoint
from vllm_ascend_ext.mtp_output.ring.folder import living_writer, ring_path

EXECUTORS = ("mp", "ray", "uni", "external_launcher")


def _has_wrong_endpoint(deployment: Deployment) -> object:
    config = deployment.config.mtp_output
    if config.transport != "zmq" or not config.endpoint:
        return None
    try:
        replica_endpoint(config.endpoint, deployment.parallel.data_parallel_size - 1)
    except ValueError as error:
        return {"problem": error}
    return None


def _has_other_executor(deployment: Deployment) -> object:
    backend = deployment.parallel.distributed_executor_backend
    return None if backend in (None, *EXECUTORS) else {"backend": repr(backend)}


def _does_not_generate(deployment: Deployment) -> object:
    model = deployment.model
    return None if model is None or model.runner_type == "generate" else {"runner": model.runner_type}


def _takes_tokens_back(deployment: Deployment) -> bool:
    kv_transfer = deployment.vllm_config.kv_transfer_config
    return kv_transfer is not None and kv_transfer.kv_load_failure_policy == "recompute"


def _has_instance_that_lives(deployment: Deployment) -> object:
    if is_part_of_an_engine():
        return None
    instance = deployment.config.mtp_output.instance
    for replica in local_replicas(deployment.parallel):
        writer = living_writer(instance, replica)
        if writer is not None:
            return {"instance": instance, "ring": ring_path(instance, replica), "writer": writer}
    return None


RULES = (
    Rule(
        "mtp_output.instance",
        "has the ring {ring}, which {writer} writes: another engine of this machine has the same instance",
        "set mtp_output.instance to another number for each engine, or stop that one",
        _has_instance_that_lives,
        key="instance={instance}",
    ),
    Rule(
        "mtp_output.transport, mtp_output.endpoint",
        "needs `endpoint` with transport 'zmq' and takes none with 'ring'",
        "set both or neither",
        lambda d: (d.config.mtp_output.transport == "zmq") != bool(d.config.mtp_output.endpoint),
    ),
    Rule(
        "mtp_output.reader",
        "has 'zmq' for a reader on another host",
        "set reader to 'required' or transport to 'ring'",
        lambda d: d.config.mtp_output.transport == "zmq" and d.config.mtp_output.reader == "none",
    ),
    Rule(
        "mtp_output.endpoint",
        "has no address to listen at: {problem}",
        "name one as tcp://HOST:PORT, of which replica r takes PORT + r",
        _has_wrong_endpoint,
    ),
    Rule(
        "prefill_context_parallel_size",
        "is not tested with prefill-context parallelism",
        "set prefill_context_parallel_size to 1",
        lambda d: d.parallel.prefill_context_parallel_size > 1,
    ),
    Rule(
        "distributed_executor_backend",
        f"knows which rank's output the engine takes of the executors {', '.join(EXECUTORS)}, not of {{backend}}",
        "set distributed_executor_backend to one of them",
        _has_other_executor,
    ),
    Rule(
        "enable_elastic_ep",
        "has a fixed set of replicas",
        "turn enable_elastic_ep off",
        lambda d: d.parallel.enable_elastic_ep,
    ),
    Rule(
        "kv_transfer_config.kv_load_failure_policy",
        "cannot take back tokens that were sent, as kv_load_failure_policy='recompute' does",
        "set it to 'fail': a request whose load fails then ends, but its frames may hold tokens of its last steps "
        "that the engine does not put out",
        _takes_tokens_back,
    ),
    Rule(
        "speculative_config.method",
        "and method 'ngram_gpu', which schedules on the device, do not work together",
        "use 'ngram'",
        lambda d: d.speculative_method == "ngram_gpu",
    ),
    Rule(
        "runner",
        "sends tokens, and a {runner} model has none",
        "set mtp_output.enabled to false",
        _does_not_generate,
    ),
    Rule(
        "max_logprobs",
        "copies at most `max_logprobs` log-probabilities, and -1 is a whole vocabulary",
        "set it to 20 or so",
        lambda d: d.model is not None and d.model.max_logprobs < 0,
    ),
    Rule(
        "enable_return_routed_experts",
        "and enable_return_routed_experts both replace the copy of a step's output",
        "turn one off",
        lambda d: d.model is not None and d.model.enable_return_routed_experts,
    ),
)
