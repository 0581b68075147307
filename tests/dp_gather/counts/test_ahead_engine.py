# SPDX-License-Identifier: Apache-2.0
"""Counts known one pass ahead, in a real engine: requests arrive while others decode, a replica has nothing to do
for a while, a wave ends and another begins. The tokens are the plain engine's, each pass is planned as it must be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.dp_gather.test_engine import ENGINE, ExpertRows, gathering, make_prompts
from tests.support.long_tables import long_table
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

MAX_TOKENS = 24
LENGTHS = [5, 40, 9, 230, 3, 17, 61]
# wave → (replica, pass from which on it is there, prompt, tokens); the first has a replica that is idle at first
WAVES: tuple[tuple[tuple[int, int, int, int], ...], ...] = (
    ((0, 0, 0, MAX_TOKENS), (0, 0, 1, 9), (0, 6, 2, 8), (1, 9, 3, 6), (1, 11, 4, 12)),
    ((1, 0, 5, 10), (0, 4, 6, 6)),
)


NUM_SEQS = 16


@dataclass(frozen=True)
class Pass:
    """Of the target or the draft model: whether planned ahead, its rows, those before padding, and whether the
    step is of requests."""

    is_ahead: bool
    num_rows: int
    num_own_rows: int
    is_real: bool


@dataclass
class Seen:
    """By one rank; `first_wave`: passes of the target model in it."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    target: list[Pass] = field(default_factory=list)
    draft: list[Pass] = field(default_factory=list)
    num_layers: tuple[int, int] = (0, 0)
    num_routed: int = 0
    first_wave: int = 0
    report: dict[str, Any] = field(default_factory=dict)


def serve(case: EngineCase) -> list[Seen]:
    """The waves in an engine; by rank."""
    prompts = make_prompts(case.model, LENGTHS)

    def job(rank: Rank) -> Seen:
        from vllm import LLM

        llm = LLM(**case.llm_arguments())
        worker, seen = llm.llm_engine.model_executor.driver_worker.worker, Seen()
        expert_rows = ExpertRows(worker.model_runner)
        _watch(worker, seen)
        llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})
        for wave in WAVES:
            _run_wave(llm, [arrival[1:] for arrival in wave if arrival[0] == rank.dp_rank], prompts, seen)
            seen.first_wave = seen.first_wave or len(seen.target)
        seen.num_routed, seen.report = expert_rows.num_routed, llm.collective_rpc("ascend_ext_report")[0]
        return seen

    return run_ranks(job, case.layout, deadline_s=200)


def _run_wave(llm: Any, arrivals: list[tuple[int, int, int]], prompts: list[list[int]], seen: Seen) -> None:
    from vllm import SamplingParams

    engine, index = llm.llm_engine, 0
    while True:
        for _, prompt, num_tokens in (arrival for arrival in arrivals if arrival[0] == index):
            options = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
            engine.add_request(str(prompt), {"prompt_token_ids": prompts[prompt]}, options)
        if not engine.has_unfinished_requests():
            return
        for output in engine.step():
            seen.tokens[int(output.request_id)] = list(output.outputs[0].token_ids)
        index += 1


def _watch(worker: Any, seen: Seen) -> None:
    """All passes from now on."""
    from vllm_ascend_ext.integration.eplb_load.bind import _draft_modules
    from vllm_ascend_ext.integration.upstream.moe_layers import moe_layers

    counts, runner = worker.bound_features["dp_gather"].planner.counts, worker.model_runner

    def noted(forward: Any, passes: list[Pass]) -> Any:
        def noting(*args: Any, **kwargs: Any) -> Any:
            is_real = runner._num_scheduled_tokens > 0
            passes.append(Pass(counts.is_ahead, len(kwargs["input_ids"]), counts.own_rows_of_pass, is_real))
            return forward(*args, **kwargs)

        return noting

    model, drafter = runner.get_model(), getattr(runner, "drafter", None)
    model.forward = noted(model.forward, seen.target)
    if drafter is not None:
        drafter.model.forward = noted(drafter.model.forward, seen.draft)
    layers, draft_modules = moe_layers(runner).values(), _draft_modules(runner)
    num_draft = sum(layer in draft_modules for layer in layers)
    seen.num_layers = len(layers) - num_draft, num_draft


@pytest.fixture(scope="module")
def plain_tokens(tiny_model: str) -> list[tuple[int, ...]]:
    prompts = make_prompts(tiny_model, LENGTHS)
    return run_engine(EngineCase(tiny_model), prompts, max_tokens=MAX_TOKENS, deadline_s=200).token_ids


@pytest.mark.parametrize(
    ("layout", "num_speculative_tokens"),
    [
        pytest.param(Layout(dp=2), 0, id="plain"),
        pytest.param(Layout(dp=2), 2, id="mtp"),
        pytest.param(Layout(dp=2, tp=2), 1, id="scattered and split rows, mtp", marks=long_table),
    ],
)
def test_arrivals_idle_replica_and_waves(
    tiny_model: str, plain_tokens: list[tuple[int, ...]], layout: Layout, num_speculative_tokens: int
) -> None:
    """With MTP under asynchronous scheduling; counts that must be asked for are then exchanged beside the first
    layers, and only the load of steps is collected in which all only decode."""
    has_drafts = num_speculative_tokens > 0
    phase = "decode" if has_drafts else "all"
    ranks = serve(
        EngineCase(
            tiny_model,
            layout,
            expert_parallel=True,
            num_speculative_tokens=num_speculative_tokens,
            ascend_ext=gathering(counts_ahead=True, overlap_counts=has_drafts)
            | {"eplb_load": {"enabled": True, "interval": 3, "phase": phase}}
            | {"attn_scatter": {"enabled": layout.tp > 1, "full": True, "min_tokens": 2}},
            engine_args=ENGINE | {"max_num_seqs": NUM_SEQS, "async_scheduling": has_drafts},
        )
    )
    tokens = {prompt: tuple(ids) for seen in ranks for prompt, ids in seen.tokens.items()}
    for _, _, prompt, num_tokens in (arrival for wave in WAVES for arrival in wave):
        assert tokens[prompt] == plain_tokens[prompt][:num_tokens], prompt
    check_passes(ranks)
    check_reports(ranks)
    check_experts(ranks, ranks[:: layout.tp])
    decode_rows = NUM_SEQS * (1 + num_speculative_tokens)
    check_load(ranks, ranks[:: layout.tp], decode_rows if phase == "decode" else 10**9)


def check_passes(ranks: list[Seen]) -> None:
    """The counts are asked for in the first pass, in the one after an arrival (which the pass that was promised
    does not admit), and while a long prompt is prefilled; otherwise all is planned ahead."""
    second = ranks[0].first_wave
    for seen in ranks:
        asked = [index for index, of_pass in enumerate(seen.target) if not of_pass.is_ahead]
        assert asked == [0, 7, 10, 11, second + 1, second + 5]
        assert all(p.num_rows == p.num_own_rows for p in seen.target + seen.draft if not p.is_ahead)
    assert len({(len(seen.target), len(seen.draft)) for seen in ranks}) == 1
    assert all(not of_pass.is_real for of_pass in ranks[-1].target[:10])
    assert sum(p.num_rows > p.num_own_rows for seen in ranks for p in seen.target) >= 3  # as requests stop


def check_reports(ranks: list[Seen]) -> None:
    for seen in ranks:
        ahead = [of_pass for of_pass in seen.target if of_pass.is_ahead]
        counts, every = seen.report["dp_gather"]["counts"], seen.target + seen.draft
        assert (counts["num_ahead"], counts["num_asked"]) == (len(ahead), 6)
        assert counts["num_pad_rows"] == sum(p.num_rows - p.num_own_rows for p in every)
        assert counts["num_rows_ahead"] == sum(p.num_rows for p in every if p.is_ahead)
        drafts = [of_pass.is_ahead for of_pass in seen.draft]
        assert (counts["num_draft_ahead"], counts["num_draft_asked"]) == (sum(drafts), len(drafts) - sum(drafts))
        if seen.draft:
            assert counts["num_exchanges"] == 6 + counts["num_draft_asked"]


def check_experts(ranks: list[Seen], replicas: list[Seen]) -> None:
    """No padding reaches an expert on any rank, neither the plan's nor that up to a bound."""
    bound_padding = sum(
        num_layers * (of_pass.num_rows - of_pass.num_own_rows)
        for seen in replicas
        for num_layers, passes in zip(seen.num_layers, (seen.target, seen.draft), strict=True)
        for of_pass in passes
    )
    assert bound_padding > 0
    for seen in ranks:
        planned = sum(s["num_rows"] - s["num_pad_rows"] for s in seen.report["dp_gather"]["modes"].values())
        assert seen.num_routed == planned - bound_padding


def check_load(ranks: list[Seen], replicas: list[Seen], most_rows: int) -> None:
    """Expert load counts the rows of requests in all passes of steps in which no replica has more rows."""
    passes = range(len(ranks[0].target))
    counted = [max(seen.target[index].num_rows for seen in ranks) <= most_rows for index in passes]
    drafts = len(ranks[0].draft) // len(passes)
    for model, of_seen in enumerate(("target", "draft") if drafts else ("target",)):
        per_step = drafts if of_seen == "draft" else 1
        real_rows = sum(
            of_pass.num_own_rows
            for seen in replicas
            for index, of_pass in enumerate(getattr(seen, of_seen))
            if of_pass.is_real and counted[index // per_step]
        )
        loads = [seen.report["eplb_load"]["load"][model] for seen in ranks]
        assert sum(load["num_tokens"] for load in loads) == real_rows > 0
        for layer in range(len(loads[0]["layers"])):
            routed = sum(sum(load["load_LE"][layer]) for load in loads)
            assert routed == real_rows * loads[0]["top_k"]
