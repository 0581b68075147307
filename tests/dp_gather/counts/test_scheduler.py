# SPDX-License-Identifier: Apache-2.0
"""vLLM's own schedulers, committing, under random arrivals, aborts, preemptions, pauses and resets: no pass has
more rows than were promised. Without an engine; VLLM_ASCEND_EXT_LONG_TESTS=1 runs more sequences of events.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.long_tables import LONG
from vllm_ascend_ext.dp_gather.commitment import OPEN, Admission, Commitment, CommitmentError, check
from vllm_ascend_ext.integration.dp_gather.counts.ahead import attached

MODEL = Path(__file__).parents[2] / "assets" / "tiny-deepseek"
BLOCK, TOKENS = 16, range(3, 90)


def engine_config(num_drafts: int, asynchronous: bool, **changes: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    drafts = {"method": "mtp", "num_speculative_tokens": num_drafts} if num_drafts else None
    return EngineArgs(
        model=str(MODEL),
        dtype="float32",
        enforce_eager=True,
        max_model_len=96,
        max_num_seqs=6,
        max_num_batched_tokens=24,
        enable_prefix_caching=False,
        async_scheduling=asynchronous,
        speculative_config=drafts,
        block_size=BLOCK,
        **changes,
    ).create_engine_config()


class Replica:
    """A committing scheduler with the engine core's part around it: passes, dummies, and what devices answer."""

    def __init__(self, config: Any, seed: int) -> None:
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from vllm_ascend_ext.integration.dp_gather.counts import scheduler as commitments

        self.random = random.Random(seed)
        self.num_drafts = config.speculative_config.num_speculative_tokens if config.speculative_config else 0
        self.asynchronous = config.scheduler_config.async_scheduling
        config.cache_config.num_gpu_blocks = num_blocks = self.random.choice([12, 20, 60])  # the first is tight
        attention = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        kind = commitments.CommittingAsyncScheduler if self.asynchronous else commitments.CommittingScheduler
        self.scheduler = kind(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(num_blocks, [], [KVCacheGroupSpec(["layer"], attention)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=False,
        )
        self.in_force: Commitment = OPEN
        self.under_way: list[tuple[Any, dict[str, bool]]] = []
        self.num_requests = self.num_bounded = 0

    def events(self) -> None:
        """What happens between two passes."""
        from vllm.v1.core.sched.interface import PauseState
        from vllm.v1.request import RequestStatus

        scheduler, chance = self.scheduler, self.random.random
        if chance() < 0.25:
            self.add_request()
        if scheduler.requests and chance() < 0.04:
            ended = self.random.choice(list(scheduler.requests))
            scheduler.finish_requests(ended, RequestStatus.FINISHED_ABORTED)
        if chance() < 0.02 and not self.under_way:
            scheduler.reset_prefix_cache(reset_running_requests=True)
        if chance() < 0.03:
            scheduler.set_pause_state(self.random.choice(list(PauseState)))
        elif chance() < 0.2:
            scheduler.set_pause_state(PauseState.UNPAUSED)

    def add_request(self) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        self.num_requests += 1
        prompt = self.random.choices(TOKENS, k=self.random.choice([1, 3, 30, 70]))
        sampling = SamplingParams(max_tokens=self.random.randint(1, 20), ignore_eos=True)
        self.scheduler.add_request(Request(str(self.num_requests), prompt, sampling, None))

    def step(self) -> None:
        """A pass or a dummy, as a replica beside others that work; raises CommitmentError."""
        output = self.scheduler.schedule() if self.scheduler.has_requests() else None
        is_pass = output is not None and output.total_num_scheduled_tokens > 0
        num_rows = output.total_num_scheduled_tokens if is_pass else 1 + self.num_drafts
        num_draft_rows = len(output.num_scheduled_tokens) if is_pass else 1 + self.num_drafts
        if not self.in_force.is_open:
            check(num_rows, self.in_force.max_rows, 0)
            check(num_draft_rows, self.in_force.max_draft_rows, 0)
            self.num_bounded += is_pass
        if is_pass:
            requests = self.scheduler.requests
            in_prompt = {name: requests[name].is_prefill_chunk for name in output.num_scheduled_tokens}
            self.under_way.append((output, in_prompt))
            self.in_force = attached(output)
        else:
            self.in_force = self.scheduler.decide_pass()
        if self.under_way and (not self.asynchronous or len(self.under_way) > 1 or not is_pass):
            self.answer(*self.under_way.pop(0))

    def answer(self, output: Any, in_prompt: dict[str, bool]) -> None:
        """The device has run a pass: some drafts are accepted, new ones made."""
        from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

        names, sampled = list(in_prompt), []
        for name in names:
            num_drafts = len(output.scheduled_spec_decode_tokens.get(name, ()))
            num_tokens = 0 if in_prompt[name] else 1 + self.random.randint(0, num_drafts)
            sampled.append(self.random.choices(TOKENS, k=num_tokens))
        rows = {name: row for row, name in enumerate(names)}
        self.scheduler.update_from_output(output, ModelRunnerOutput(names, rows, sampled_token_ids=sampled))
        if self.num_drafts and not self.asynchronous:
            live = [name for name in names if name in self.scheduler.requests]
            drafts = [self.random.choices(TOKENS, k=self.num_drafts) for _ in live]
            self.scheduler.update_draft_token_ids(DraftTokenIds(live, drafts))


def run(config: Any, seed: int) -> int:
    """Returns how many passes were bounded."""
    replica = Replica(config, seed)
    for _ in range(150):
        replica.events()
        replica.step()
    return replica.num_bounded


@pytest.mark.parametrize("threshold", [0, 2])
@pytest.mark.parametrize(("num_drafts", "asynchronous"), [(0, False), (1, True), (3, False), (3, True)])
def test_no_pass_has_more_than_was_promised(num_drafts: int, asynchronous: bool, threshold: int) -> None:
    config = engine_config(num_drafts, asynchronous, long_prefill_token_threshold=threshold)
    num_seeds = 80 if LONG else 4
    assert sum(run(config, seed) for seed in range(num_seeds)) > num_seeds


def test_without_holding_requests_back_it_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "holds", False)
    config = engine_config(1, False)
    with pytest.raises(CommitmentError, match="committed to at most"):
        for seed in range(40):
            run(config, seed)
