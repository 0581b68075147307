# SPDX-License-Identifier: Apache-2.0
"""Translates between vLLM's runner and `StepPipeline`.

The scheduler's outputs become events, the sampler's outputs become tensors to pack, and packed records become
outputs for the engine.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsLists, LogprobsTensors

from vllm_ascend_ext.integration.mtp_output.stop_rule import num_prompt_tokens
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import mtp_output as seams
from vllm_ascend_ext.mtp_output.step.device_copy import PackedShape, SampledTensors, draft_rows
from vllm_ascend_ext.mtp_output.step.pipeline import StepPipeline, StepResult
from vllm_ascend_ext.mtp_output.step.request_states import StepEvents

_MARK = "ascend_ext_step"


def marked(sampled_token_ids: Any) -> tuple[RunnerHooks, StepResult | None] | None:
    """Returns the mark that `RunnerHooks.sampled` put on the tensor, or None for a tensor of another runner."""
    mark: tuple[RunnerHooks, StepResult | None] | None = getattr(sampled_token_ids, _MARK, None)
    return mark


class RunnerHooks:
    """Implements `RunnerOutputs`, which the mixin of a vLLM runner calls.

    Attributes:
        returns_errors: whether a failed step is returned as an exception, not raised (`PackedAsyncOutput`).
    """

    def __init__(self, runner: Any, outputs: StepPipeline) -> None:
        self.outputs = outputs
        self.returns_errors = runner.parallel_config.distributed_executor_backend in ("mp", "ray")
        self._runner = runner
        self._prompts: dict[str, int] = {}  # request still in its prompt (or recomputing) → tokens to prefill
        self._step: StepResult | None = None

    def begin_step(self, scheduler_output: Any) -> None:
        """Tells the pipeline what the scheduler has decided for a step.

        Raises:
            LaunchBoundError: the launch has more tokens than the bound that was foretold.
        """
        self._follow_launch(scheduler_output)
        cached = scheduler_output.scheduled_cached_reqs
        known = dict(zip(cached.req_ids, cached.num_output_tokens, strict=True))
        if self.outputs.is_async:  # the others' newest tokens are not counted yet
            known = {request_id: known[request_id] for request_id in cached.resumed_req_ids}
        events = StepEvents(
            new={request.req_id: request for request in scheduler_output.scheduled_new_reqs},
            finished=tuple(sorted(scheduler_output.finished_req_ids)),
            sent_back=_sent_back(scheduler_output),
            preempted=tuple(sorted(scheduler_output.preempted_req_ids or ())),
            resumed=frozenset(cached.resumed_req_ids),
            num_output_tokens=known,
        )
        self.outputs.begin_step(events)

    def sampled(self, sampler_output: Any, spec_decode_metadata: Any) -> None:
        """Hands what the step has sampled, on the device, to the pipeline, and marks the tensor of tokens."""
        batch = self._runner.input_batch
        num_requests = batch.num_reqs
        skipped = np.flatnonzero(self._runner.discard_request_mask.np[:num_requests])
        self._step = self.outputs.sampled(
            _shape(sampler_output, spec_decode_metadata),
            functools.partial(_to_pack, sampler_output, spec_decode_metadata),
            batch.req_ids[:num_requests],
            tuple(skipped.tolist()),
            needs_history=self.outputs.is_async and bool(batch.sampling_metadata.output_token_ids),
        )
        change.mark(seams.SAMPLED, sampler_output.sampled_token_ids, _MARK, (self, self._step))

    def on_host(self, sampler_output: Any) -> Any:
        """Returns the sampler's output on the host, or unchanged under asynchronous scheduling."""
        if self.outputs.is_async:
            return sampler_output
        step = self._step
        assert step is not None  # every rank needs the tokens: `ReplicaPeers.always_share`
        self.outputs.resolve(step)
        assert step.target is not None
        return replace(
            sampler_output, sampled_token_ids=step.target.token_ids_BS, logprobs_tensors=_logprobs_tensors(step)
        )

    def nothing_sampled(self) -> None:
        """Tells the pipeline that the step ends, and this rank did not sample."""
        self.outputs.nothing_sampled()

    def _follow_launch(self, scheduler_output: Any) -> None:
        """Follows requests that join, go on with a prompt or leave, alike on all ranks, and checks the bound."""
        launches, scheduled = self.outputs.launches, scheduler_output.num_scheduled_tokens
        self.outputs.take_counts()
        preempted = scheduler_output.preempted_req_ids or ()
        for request_id in (*scheduler_output.finished_req_ids, *_sent_back(scheduler_output), *preempted):
            launches.finish(request_id)
            self._prompts.pop(request_id, None)
        for request in scheduler_output.scheduled_new_reqs:
            self._prompts[request.req_id] = num_prompt_tokens(request)
            self._prefill(request.req_id, request.num_computed_tokens, scheduled[request.req_id])
        cached = scheduler_output.scheduled_cached_reqs
        for request_id, num_computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            if request_id in cached.resumed_req_ids:
                self._prompts[request_id] = len(cached.all_token_ids[request_id])
            if request_id in self._prompts:
                self._prefill(request_id, num_computed, scheduled[request_id])
        if scheduled:
            launches.check(scheduler_output.total_num_scheduled_tokens)

    def _prefill(self, request_id: str, num_computed: int, num_scheduled: int) -> None:
        is_last = num_computed + num_scheduled >= self._prompts[request_id]
        self.outputs.launches.prefill(request_id, num_scheduled, is_last=is_last)
        if is_last:
            del self._prompts[request_id]


def _sent_back(scheduler_output: Any) -> tuple[str, ...]:
    """Returns the requests that vllm-ascend's recompute scheduler ends on a decode node, for its proxy to let them
    be prefilled anew; vLLM's own schedulers know no such thing."""
    requests = getattr(scheduler_output, "recomputed_reqs", None) or ()
    return tuple(request.request_id for request in requests)


def _shape(sampler_output: Any, spec_decode_metadata: Any) -> PackedShape:
    """Returns the shape of what `_to_pack` will make, which is known without waiting for the device."""
    num_requests, num_slots = sampler_output.sampled_token_ids.shape
    logprobs = sampler_output.logprobs_tensors
    columns = 0 if logprobs is None else logprobs.logprob_token_ids.shape[-1]
    num_drafts = 0 if spec_decode_metadata is None else spec_decode_metadata.max_spec_len
    return PackedShape(num_requests, num_slots, columns, num_drafts)


def _to_pack(sampler_output: Any, spec_decode_metadata: Any) -> SampledTensors:
    token_ids_BS = sampler_output.sampled_token_ids.to(torch.int32)
    draft_ids_BD = None
    if spec_decode_metadata is not None:
        draft_ids_BD = draft_rows(
            spec_decode_metadata.draft_token_ids,
            spec_decode_metadata.num_draft_tokens,
            spec_decode_metadata.cu_num_draft_tokens,
        )
    logprobs = sampler_output.logprobs_tensors
    if logprobs is None:
        return SampledTensors(token_ids_BS, draft_ids_BD)
    shape = (*token_ids_BS.shape, logprobs.logprob_token_ids.shape[-1])
    return SampledTensors(
        token_ids_BS,
        draft_ids_BD,
        logprobs.logprob_token_ids.to(torch.int32).reshape(shape),
        logprobs.logprobs.to(torch.float32).reshape(shape),
        logprobs.selected_token_ranks.to(torch.int32).reshape(token_ids_BS.shape),
    )


def _logprobs_tensors(step: StepResult) -> LogprobsTensors | None:
    """Returns logprobs as the sampler made them, one row a slot; vLLM drops rejected drafts' blank rows."""
    target = step.target
    assert target is not None
    if target.topk_ids_BSK is None or target.topk_logprobs_BSK is None or target.token_ranks_BS is None:
        return None
    ids_BSK = target.topk_ids_BSK
    return LogprobsTensors(
        ids_BSK.flatten(0, 1),
        target.topk_logprobs_BSK.flatten(0, 1),
        target.token_ranks_BS.flatten().to(torch.int64),
    )


def engine_logprobs(step: StepResult) -> LogprobsLists | None:
    """Returns the accepted tokens' logprobs, by request. Those of discarded rows stay in, as vLLM leaves them."""
    tensors, target = _logprobs_tensors(step), step.target
    if tensors is None or target is None:
        return None
    num_slots = step.shape.num_slots
    if num_slots == 1:
        return tensors.tolists()
    counts_B = target.num_accepted_B
    is_accepted_BS = torch.arange(num_slots) < counts_B.unsqueeze(1)
    cu_num_tokens = [0, *counts_B.cumsum(0).tolist()]
    return tensors.filter(is_accepted_BS.flatten()).tolists(cu_num_tokens)
