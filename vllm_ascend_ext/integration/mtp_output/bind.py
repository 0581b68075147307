# SPDX-License-Identifier: Apache-2.0
"""Sets up MTP output in a worker, and reports what the worker copied and sent."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.config import MtpOutputConfig
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.integration.errors import StartupError
from vllm_ascend_ext.integration.mtp_output.runner_outputs import RunnerHooks
from vllm_ascend_ext.integration.mtp_output.stop_rule import EngineRequests
from vllm_ascend_ext.integration.ranks.groups import own_group
from vllm_ascend_ext.integration.ranks.place import rank_place
from vllm_ascend_ext.integration.upstream.runner_device import device_of
from vllm_ascend_ext.integration.upstream.seams.change import replace_all
from vllm_ascend_ext.integration.upstream.seams.rows.mtp_output import ASYNC_OUTPUTS
from vllm_ascend_ext.integration.upstream.seams.seam import Seam
from vllm_ascend_ext.mtp_output.errors import ChannelError
from vllm_ascend_ext.mtp_output.outlet import EngineOutlet
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.step.device_copy import PackedShape, RecordCopier
from vllm_ascend_ext.mtp_output.step.launch_bound import LaunchBound
from vllm_ascend_ext.mtp_output.step.pipeline import ReplicaPeers, StepPipeline
from vllm_ascend_ext.mtp_output.step.sampling_mark import SamplingMark
from vllm_ascend_ext.mtp_output.step.sender import StepSender
from vllm_ascend_ext.mtp_output.step.sender_rank import route_output
from vllm_ascend_ext.rank_place import RankPlace
from vllm_ascend_ext.runner.step_cost import Method, Place


def attach(worker: Any, config: MtpOutputConfig) -> RunnerHooks:
    """Makes the worker's runner give its output to us. Every rank of a replica calls it, as a group is made.

    Raises:
        StartupError: the ring or socket for the frames cannot be made.
    """
    runner, vllm_config = worker.model_runner, worker.vllm_config
    place = rank_place(vllm_config.parallel_config)
    routing = route_output(place)
    is_async = bool(vllm_config.scheduler_config.async_scheduling)
    num_speculative_tokens = int(runner.num_spec_tokens)
    replace_all(replacements(runner.device.type))
    copier, sender = None, None
    if routing.sends:
        copier = _record_copier(runner, config, num_speculative_tokens)
        history = EngineRequests(lambda: int(runner.max_model_len))
        max_rows = runner.max_num_reqs
        outlet = _outlet(config, routing.replica, max_rows, num_speculative_tokens)
        sender = StepSender(outlet, history, top_k=config.top_k, max_rows=max_rows)
    try:
        peers = _peers(vllm_config, config, place, is_async=is_async)
    except BaseException:
        if sender is not None:
            sender.close()
        raise
    receives = not routing.sends and not is_async
    outputs = StepPipeline(
        copier=copier,
        sender=sender,
        peers=peers,
        launches=LaunchBound(num_speculative_tokens),
        num_buffers=config.slots,
        is_async=is_async,
        sampling_mark=SamplingMark(device_of(runner), config.deadline_s) if receives else None,
        launches_ahead=max(1, place.pp_size - 1),  # vLLM's V1 engine has as many batches on their way as stages
    )
    hooks = RunnerHooks(runner, outputs)
    runner.attach_outputs(hooks)
    return hooks


def replacements(device_type: str) -> list[tuple[Seam, Any]]:
    """Returns the replacements for the class by which the device's runner makes its asynchronous output."""
    from vllm_ascend_ext.integration.mtp_output.async_output import make_async_output

    return [(seam, make_async_output) for seam in ASYNC_OUTPUTS if device_type in seam.devices]


def _record_copier(runner: Any, config: MtpOutputConfig, num_speculative_tokens: int) -> RecordCopier:
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

    columns = 1 + max(runner.model_config.max_logprobs, MAX_LOGPROB_TOKEN_IDS)
    num_slots = decode_tokens(num_speculative_tokens)
    largest = PackedShape(runner.max_num_reqs, num_slots, columns, num_speculative_tokens)
    return RecordCopier(
        device_of(runner),
        largest,
        num_buffers=config.slots,
        deadline_s=config.deadline_s,
        vocab_size=runner.input_batch.vocab_size,
    )


def _outlet(config: MtpOutputConfig, replica: int, max_num_seqs: int, num_speculative_tokens: int) -> EngineOutlet:
    columns = config.top_k + 1 if config.top_k else 0
    try:
        size = RingSize.for_engine(max_num_seqs, num_speculative_tokens, columns, num_frames=config.frames)
        return EngineOutlet(
            config.instance,
            replica,
            size,
            timeout_s=config.deadline_s,
            endpoint=config.endpoint,
            has_reader=config.reader == "required",
        )
    except (ChannelError, OSError, ValueError) as error:
        raise StartupError(f"ascend_ext.mtp_output, replica {replica}: {error}") from error


def _peers(vllm_config: Any, config: MtpOutputConfig, place: RankPlace, *, is_async: bool) -> ReplicaPeers:
    """Makes a group, in host memory, of the ranks of this replica that need what its last stage samples.

    Under the launcher of torchrun every stage samples, from logits that the last one broadcasts, and has an engine
    of its own; else only the last stage samples, and the engine tells the others of its tokens.
    """
    from vllm.distributed import get_pp_group, get_tp_group

    launcher = vllm_config.parallel_config.distributed_executor_backend == "external_launcher"
    ranks, stages = get_tp_group().ranks, get_pp_group().ranks
    sender = 0
    if launcher and place.pp_size > 1:
        own = stages[place.pp_rank]
        ranks = sorted(stage + rank - own for stage in stages for rank in ranks)
        sender = ranks.index(stages[-1] - place.tp_rank)
    if len(ranks) == 1:
        return ReplicaPeers(None, False)
    collectives = own_group(ranks, "gloo", config.deadline_s, "mtp output")
    return ReplicaPeers(collectives, launcher or not is_async, sender)


def cost_places(hooks: RunnerHooks) -> list[Place]:
    """Returns the calls of the runner, and of what is inside them those that take time."""
    outputs = hooks.outputs
    calls = ("begin_step", "sampled", "on_host", "nothing_sampled")
    places: list[Place] = [Method(name, hooks, name) for name in calls]
    places.append(Method("resolve", outputs, "resolve"))
    if outputs.copier is not None and outputs.sender is not None:
        places.append(Method("pack and copy", outputs.copier, "launch"))
        places.append(Method("judge and frame", outputs.sender, "send"))
        places.append(Method("ring", outputs.sender.outlet, "send"))
    if outputs.peers.collectives is not None:
        places += outputs.peers.collectives.cost_places()
    return places


def report_of(outputs: StepPipeline) -> dict[str, Any]:
    """Returns what this rank copied, received and sent; "copies" is None on a rank that copies nothing itself."""
    document: dict[str, Any] = {"copies": None, "received": outputs.num_received}
    if outputs.copier is not None and outputs.sender is not None:
        copies = outputs.copier.stats
        document |= {"copies": copies.num_copies, "copied_bytes": copies.num_bytes}
        stats, outlet = outputs.sender.stats, outputs.sender.outlet_stats
        document |= {
            "frames": stats.num_frames,
            "frame_seconds": stats.latency_s,
            "blocked_seconds": outlet.blocked_s,
            "frame_bytes": outlet.bytes,
            "ring_occupancy": outlet.occupancy,
            "ring_capacity": outlet.capacity,
            "tokens": stats.acceptance.num_tokens,
            "drafts": list(stats.acceptance.num_drafts),
            "accepted_drafts": list(stats.acceptance.num_accepted),
        }
    return document
