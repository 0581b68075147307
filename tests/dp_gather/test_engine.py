# SPDX-License-Identifier: Apache-2.0
"""DP gather in a real engine: every mode gives the plain engine's tokens and sends the bytes that it foretold.

One engine runs all modes, one after the other.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import random
import textwrap
from typing import Any

import pytest

from tests.support.long_tables import long_table
from vllm_ascend_ext.tools.engine import EngineCase, even_split, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 8
Modes = tuple[str | None, ...]
MODES: Modes = (None, "max_len", "sum_len", "variable")  # None: the rule's
# prompts are prefilled in chunks beside others' decoding
ENGINE = {"enable_prefix_caching": False, "max_num_batched_tokens": 192, "max_num_seqs": 16}


Outcome = tuple[int, dict[int, tuple[int, ...]], dict[str, Any]]  # TP rank, tokens by prompt, report


def make_prompts(model: str, lengths: list[int]) -> list[list[int]]:
    """Prompts of these lengths, cut from the standard library's source."""
    from transformers import AutoTokenizer

    text = "".join(inspect.getsource(module) for module in (textwrap, json, random))
    token_ids = AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False)["input_ids"]
    chance = random.Random(5)
    return [token_ids[(start := chance.randint(0, len(token_ids) - 301)) : start + n] for n in lengths]


def run_modes(
    case: EngineCase, prompts: list[list[int]], counts: list[int], modes: Modes = MODES
) -> list[list[Outcome]]:
    """For each rank and mode; replica r gets counts[r] of the prompts."""

    def job(rank: Rank) -> list[Any]:
        from vllm import LLM, SamplingParams

        from vllm_ascend_ext.dp_gather.plan_rows import GatherMode

        llm = LLM(**case.llm_arguments())
        worker = llm.llm_engine.model_executor.driver_worker.worker
        planner, expert_rows = worker.bound_features["dp_gather"].planner, ExpertRows(worker.model_runner)
        passes = _watch_counts(worker.model_runner, planner)
        begin = sum(counts[: rank.dp_rank])
        own = range(begin, begin + counts[rank.dp_rank])
        params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        outcomes = []
        for mode in modes:
            planner.mode = None if mode is None else GatherMode(mode)
            llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})
            expert_rows.num_routed = 0
            outputs = llm.generate([{"prompt_token_ids": prompts[i]} for i in own], params, use_tqdm=False)
            tokens = {i: tuple(output.outputs[0].token_ids) for i, output in zip(own, outputs, strict=True)}
            report = llm.collective_rpc("ascend_ext_report")[0] | {"num_routed": expert_rows.num_routed}
            if case.ascend_ext["dp_gather"].get("overlap_counts"):
                assert planner.counts.stats.num_exchanges > 0
                planner.counts.stats.num_exchanges = 0
                assert any(is_busy for is_busy, _ in passes)
                assert all(pending for _, pending in passes), "a pass waited for the counts before it began"
                passes.clear()
            outcomes.append((rank.tp_rank, tokens, report))
        return outcomes

    return run_ranks(job, case.layout, deadline_s=400)


def _watch_counts(runner: Any, planner: Any) -> list[tuple[bool, bool]]:
    """Of each pass of the target model that begins from now on: whether it has rows of requests, and whether the
    counts are still being exchanged."""
    passes = []

    def begins(*_: Any) -> None:
        passes.append((runner._num_scheduled_tokens > 0, getattr(planner.counts, "pending", False)))

    runner.get_model().register_forward_pre_hook(begins)
    return passes


class ExpertRows:
    """Counts the rows that reach the experts of a runner: those with experts, where ids are given."""

    def __init__(self, runner: Any) -> None:
        from vllm_ascend_ext.integration.upstream.moe_layers import moe_layers

        self.num_routed = 0
        for layer in moe_layers(runner).values():
            layer.quant_method.apply = self._counted(layer.quant_method.apply)

    def _counted(self, apply: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            ids = kwargs.get("topk_ids")
            self.num_routed += len(kwargs["x"]) if ids is None else int((ids >= 0).all(dim=1).sum())
            return apply(*args, **kwargs)

        return counted


def check_modes(
    plain: EngineCase,
    case: EngineCase,
    prompts: list[list[int]],
    counts: list[int],
    rule_uses: set[str],
    modes: Modes = MODES,
) -> list[list[Outcome]]:
    """Tokens are those of the engine `plain`, bytes those foretold, and every mode did what its name says."""
    split = counts if plain.layout.dp > 1 else None
    expected = run_engine(plain, prompts, max_tokens=NUM_TOKENS, deadline_s=300, split=split).token_ids
    outcomes = run_modes(case, prompts, counts, modes)
    check_bytes(outcomes, expected, rule_uses, modes)
    return outcomes


def check_bytes(
    outcomes: list[list[Outcome]], expected: list[tuple[int, ...]], rule_uses: set[str], modes: Modes = MODES
) -> None:
    """What `run_modes` returned: these tokens, the bytes foretold, the mode asked for, the same plans on all, and
    no padding in the experts."""
    for index, mode in enumerate(modes):
        ranks = [rank[index] for rank in outcomes]
        tokens = {i: ids for tp_rank, by_prompt, _ in ranks if tp_rank == 0 for i, ids in by_prompt.items()}
        assert [tokens[i] for i in range(len(expected))] == expected, mode
        for _, _, report in ranks:
            used = report["dp_gather"]["modes"]
            sent = sum(
                op["bytes"]
                for name, ops in report["traffic"].items()
                if name.startswith("DP gather over")
                for op in ops.values()
            )
            assert sent == sum(stats["planned_bytes"] for stats in used.values()) > 0
            assert report["num_routed"] == sum(s["num_rows"] - s["num_pad_rows"] for s in used.values())
            assert set(used) == (rule_uses if mode is None else {mode})
            same = {name: (stats["num_layers"], stats["num_rows"]) for name, stats in used.items()}
            assert same == {
                name: (stats["num_layers"], stats["num_rows"])
                for name, stats in ranks[0][2]["dp_gather"]["modes"].items()
            }
            if mode == "max_len":
                assert used[mode]["num_pad_rows"] > 0


def gathering(rule: str = "auto", **section: Any) -> dict[str, Any]:
    return {"dp_gather": {"enabled": True, "rule": rule, **section}}


def _dispatched(rank: Rank) -> list[str]:
    """What vLLM's modular kernels call on CUDA: rows routed already, with scales. Returns each pass's mode."""
    import torch
    import torch.distributed as dist
    from vllm.config import CUDAGraphMode, VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.forward_context import DPMetadata, ForwardContext, override_forward_context

    from vllm_ascend_ext.collectives.collectives import Collectives
    from vllm_ascend_ext.config import DpGatherConfig
    from vllm_ascend_ext.dp_gather.exchange import DpGather, PlanError
    from vllm_ascend_ext.dp_gather.plan_rows import Topology
    from vllm_ascend_ext.integration.dp_gather.counts.row_counts import AskedCounts
    from vllm_ascend_ext.integration.dp_gather.planner import LayerPlanner
    from vllm_ascend_ext.integration.dp_gather.vllm_exchange import PlannedAll2AllManager

    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(3, rank.rank, "env://", rank.rank, backend="gloo")
        initialize_model_parallel()
    gather = DpGather(Collectives(dist.group.WORLD, 60.0, "gather"))
    planner = LayerPlanner(gather, Topology(3), DpGatherConfig(), None, AskedCounts())
    manager, modes = PlannedAll2AllManager(dist.group.WORLD, planner), []
    for counts, graph in (([9, 1, 0], False), ([2, 2, 2], False), ([4, 4, 4], True), ([9, 1, 1], True)):
        metadata = DPMetadata(torch.tensor(counts, dtype=torch.int32))
        mode = CUDAGraphMode.FULL if graph else CUDAGraphMode.NONE
        context = ForwardContext({}, {}, {}, dp_metadata=metadata, cudagraph_runtime_mode=mode)
        everyone = [torch.arange(4.0 * n).view(n, 4) + 100 * r for r, n in enumerate(counts)]
        own = everyone[rank.rank]
        ids = torch.full((len(own), 2), rank.rank, dtype=torch.int32)
        with override_forward_context(context), planner.layer():
            hidden, weights, gathered_ids, (scales,) = manager.dispatch(own, own[:, :2], ids, False, [own[:, :1]])
            real = gathered_ids[:, 0] >= 0
            assert torch.equal(hidden[real], torch.cat(everyone)) and torch.equal(scales, hidden[:, :1])
            assert torch.equal(weights, hidden[:, :2]) and not hidden[~real].any()
            assert gathered_ids[real, 0].tolist() == [r for r, n in enumerate(counts) for _ in range(n)]
            assert torch.equal(hidden[manager.own_rows()], own)
            modes.append(gather.plan.mode.value)
            assert torch.equal(manager.combine(hidden), 3 * own)
        with pytest.raises(PlanError, match="no gather plan"):
            manager.own_rows()
    return modes


def test_routed_rows_and_graphs() -> None:
    expected = ["sum_len", "max_len", "max_len", "max_len"]
    assert run_ranks(_dispatched, Layout(dp=3), deadline_s=120) == [expected] * 3


def test_modes_give_the_plain_tokens_with_mtp(tiny_model: str) -> None:
    """DP2 and EP, one replica with most of the work; MTP verifies and drafts; the rule changes within a run."""
    prompts = make_prompts(tiny_model, [1, 299, 17, 40, 3, 121, 2, 9])
    case = EngineCase(
        tiny_model,
        Layout(dp=2),
        expert_parallel=True,
        num_speculative_tokens=2,
        ascend_ext=gathering("cost", machine="h20", overlap_counts=True),
        engine_args=ENGINE,
    )
    check_modes(EngineCase(tiny_model), case, prompts, [7, 1], {"max_len", "variable"})


def test_modes_give_the_plain_tokens_with_split_rows(tiny_model: str) -> None:
    """DP2 x TP2: a replica's rows are split among its TP ranks; expert load is counted as without the feature."""
    prompts = make_prompts(tiny_model, [299, 5, 64, 1, 7])
    case = EngineCase(
        tiny_model,
        Layout(tp=2, dp=2),
        expert_parallel=True,
        ascend_ext=gathering() | {"eplb_load": {"enabled": True, "interval": 3}},
        engine_args=ENGINE,
    )
    check_modes(EngineCase(tiny_model), case, prompts, [4, 1], {"max_len"})


@long_table
@pytest.mark.parametrize("num_speculative_tokens", [0, 2], ids=["plain", "mtp"])
@pytest.mark.parametrize("layout", [Layout(dp=2), Layout(tp=2, dp=2)], ids=["DP2", "DP2xTP2"])
def test_64_prompts(tiny_model: str, layout: Layout, num_speculative_tokens: int) -> None:
    """Beside an engine of the same layout without us."""
    lengths = [1, 300, *random.Random(1).choices(range(1, 301), k=62)]
    case = EngineCase(
        tiny_model,
        layout,
        expert_parallel=True,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext=gathering(),
        engine_args=ENGINE,
    )
    plain = dataclasses.replace(case, ascend_ext=None)
    counts = even_split(len(lengths), layout.dp)
    check_modes(plain, case, make_prompts(tiny_model, lengths), counts, {"max_len"})


@long_table
def test_three_replicas_and_sglangs_rule(tiny_model: str) -> None:
    """While one replica prefills and the others decode or are idle, the rule chooses sum_len; MTP drafts."""
    case = EngineCase(
        tiny_model,
        Layout(dp=3),
        expert_parallel=True,
        num_speculative_tokens=2,
        ascend_ext=gathering("auto"),
        engine_args=ENGINE,
    )
    prompts = make_prompts(tiny_model, [299, 255, 3, 1, 121])
    plain = dataclasses.replace(case, ascend_ext=None)
    check_modes(plain, case, prompts, [3, 1, 1], {"max_len", "sum_len"}, (None,))


@long_table
def test_eplb_moves_experts_meanwhile(tiny_model: str) -> None:
    """vLLM's own EPLB, with experts in several places: in every mode the tokens of an engine with neither."""
    case = EngineCase(tiny_model, Layout(dp=2), expert_parallel=True, num_speculative_tokens=2, engine_args=ENGINE)
    eplb = {
        "enable_eplb": True,
        "eplb_config": {"window_size": 8, "step_interval": 8, "num_redundant_experts": 4, "use_async": False},
    }
    ours = dataclasses.replace(case, ascend_ext=gathering(), engine_args=ENGINE | eplb)
    prompts = make_prompts(tiny_model, [1, 299, 17, 40, 3, 121, 2, 9])
    for modes in check_modes(case, ours, prompts, [7, 1], {"max_len"}):
        placements = [str(report["placements"]["target"]) for _, _, report in modes]
        assert len({*placements, str([[*range(16), *range(4)]] * 2)}) > 2  # experts moved more than once
