# SPDX-License-Identifier: Apache-2.0
"""Scattered attention input as Atlas machines serve DeepSeek, in small on the emulator: W8A8_DYNAMIC weights,
replicas, rows that are sent to experts, and drafts beside captured graphs.

Steps are of odd and of even numbers of rows, and of a single one. Quantised tokens are held to transformers with
the same integer arithmetic, ties apart; all others equal transformers'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.attn_scatter.phases import (
    NEVER,
    NUM_TOKENS,
    Phase,
    all_tokens,
    check_bytes,
    check_own_counts,
    run,
    scattering,
)
from tests.support.engines.apart import A2_SOC, A3_SOC, REPLAY, call_apart
from tests.support.engines.near_ties import TIE, TIE_BFLOAT16, follow
from tests.support.engines.upstream_races import CAPTURE, others
from tests.support.long_tables import long_table
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w4a8, write_w8a8
from tests.support.reference import make_prompts, transformers_tokens, write_qwen3_moe
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

# steps of at most 95 rows: prompts are prefilled in chunks, beside others that decode
ENGINE: dict[str, Any] = {
    "max_num_batched_tokens": 95,
    "max_num_seqs": 4,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}
THRESHOLDS = [NEVER, 1]
DEADLINE_S = 400


@dataclass(frozen=True)
class Case:
    """model: "DeepSeek" or "Qwen3-MoE", with the widths of its weights where they are integers. capture_sizes: of
    decode steps' tokens; none: eager. split: prompts but the last of each replica."""

    model: str = "DeepSeek"
    layout: Layout = Layout(tp=2)
    expert_parallel: bool = True
    drafts: int = 0
    capture_sizes: tuple[int, ...] = ()
    split: tuple[int, ...] | None = None

    def engine(self, models: dict[str, str]) -> EngineCase:
        graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": list(self.capture_sizes)}
        settings = {"enforce_eager": False, "compilation_config": graphs} if self.capture_sizes else {}
        return EngineCase(
            models[self.model],
            self.layout,
            expert_parallel=self.expert_parallel,
            num_speculative_tokens=self.drafts,
            ascend_ext=scattering(),
            engine_args=ENGINE | settings,
        )

    @property
    def network(self) -> Callable[[str], Any]:
        return integer_network(split_by_tp(self.layout.tp, expert_parallel=self.expert_parallel))


DP2XTP2 = Layout(tp=2, dp=2)
GRAPHS = (8, 16)  # a decode step has a token and three drafts of each request
ON_A2 = {
    "W8A8 TP2": Case("DeepSeek W8A8", expert_parallel=False),
    "W8A8 TP2+EP": Case("DeepSeek W8A8"),
    "DP2xTP2+EP": Case(layout=DP2XTP2),
    "DP2xTP2+EP, an idle replica": Case(layout=DP2XTP2, split=(8, 0)),
    "TP2+EP MTP1 in graphs": Case(drafts=1, capture_sizes=(2, 4, 8)),
    "TP2+EP MTP3 in graphs": Case(drafts=3, capture_sizes=GRAPHS),
    "Qwen3-MoE W8A8 TP2 in graphs": Case("Qwen3-MoE W8A8", expert_parallel=False, capture_sizes=(1, 2, 4)),
    "Qwen3-MoE W4A8 TP2 in graphs": Case("Qwen3-MoE W4A8", expert_parallel=False, capture_sizes=(1, 2, 4)),
}
ON_A3 = {
    "TP2+EP": Case(),
    "W8A8 TP2+EP": Case("DeepSeek W8A8"),
    "DP2xTP2+EP, an idle replica": Case(layout=DP2XTP2, split=(8, 0)),
    "W8A8 TP2+EP MTP3 in graphs": Case("DeepSeek W8A8", drafts=3, capture_sizes=GRAPHS),
    "W8A8 DP2xTP2+EP MTP3 in graphs": Case("DeepSeek W8A8", DP2XTP2, drafts=3, capture_sizes=GRAPHS, split=(6, 2)),
}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    """Of 1 to 90 tokens; the last one runs alone, one token a step."""
    cut = make_prompts(tiny_model)
    return [*cut[:6], cut[7][:33], cut[9][:2], cut[8]]


@pytest.fixture(scope="module")
def models(tiny_model: str, tmp_path_factory: pytest.TempPathFactory, vllm_preloaded: None) -> dict[str, str]:
    allow_float32()  # the ranks are forks of this process
    folders = iter(tmp_path_factory.mktemp(f"model{index}") for index in range(4))
    qwen = write_qwen3_moe(next(folders), tiny_model)
    return {
        "DeepSeek": tiny_model,
        "DeepSeek W8A8": write_w8a8(tiny_model, next(folders)),
        "Qwen3-MoE W8A8": write_w8a8(qwen, next(folders)),
        "Qwen3-MoE W4A8": write_w4a8(qwen, next(folders)),
    }


@pytest.fixture(scope="module")
def expected(tiny_model: str, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    return transformers_tokens(tiny_model, prompts, NUM_TOKENS)


def check(
    case: Case,
    ranks: list[list[Phase]],
    models: dict[str, str],
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
) -> None:
    """Tokens of both phases, and the bytes of the scattered one."""
    for index in range(len(THRESHOLDS)):
        tokens = all_tokens(ranks, index)
        if case.model == "DeepSeek":
            assert tokens == expected
        else:
            assert len(set(tokens)) > 4  # not degenerate
            followed = follow(models[case.model], prompts, tokens, case.network)
            followed.assert_tokens(TIE_BFLOAT16 if "W4A8" in case.model else TIE)
    for plain, always in ranks:
        assert plain.scatter["num_scattered"] == 0
        assert always.scatter["num_scattered"] > 0
        assert (always.scatter["num_plain"] > 0) == bool(case.capture_sizes)


def test_a_row_is_quantised_by_itself() -> None:
    """A shard's rows, quantised and multiplied, are the batch's to the bit, whichever rows stand beside them."""
    import torch
    import torch_npu

    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (96, 48), dtype=torch.int8).npu()
    scale = (torch.rand(48) / 127).npu()

    def project(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, row_scales = torch_npu.npu_dynamic_quant(x)
        out = torch_npu.npu_quant_matmul(values, weight, scale, pertoken_scale=row_scales, output_dtype=x.dtype)
        return values.cpu(), row_scales.cpu(), out.cpu()

    for dtype in (torch.bfloat16, torch.float16):
        # rows of very different sizes, one of zeros
        rows = torch.randn(13, 96) * torch.logspace(-4, 4, 13).unsqueeze(1)
        rows[5] = 0
        whole = rows.to(dtype).npu()
        for num_ranks in (2, 4, 8):
            longest = -(-13 // num_ranks)
            padded = torch.cat([whole, whole.new_zeros(num_ranks * longest - 13, 96)])
            parts = [project(padded[begin : begin + longest]) for begin in range(0, len(padded), longest)]
            for of_batch, of_shards in zip(project(whole), zip(*parts, strict=True), strict=True):
                assert torch.equal(torch.cat(of_shards)[:13], of_batch)


@long_table
@pytest.mark.parametrize("name", [name for name in ON_A2 if not ON_A2[name].capture_sizes])
def test_on_an_a2(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    name: str,
) -> None:
    """Rows reach the experts by all-gather."""
    case = ON_A2[name]
    ranks = run(case.engine(models), prompts, THRESHOLDS, split=case.split, deadline_s=DEADLINE_S)
    check(case, ranks, models, prompts, expected)
    for plain, always in ranks:
        if case.layout.dp == 1:
            check_bytes(plain, always)
    assert others(race_reports.take(), ()) == []


def run_apart(
    folder: Path, case: Case, models: dict[str, str], prompts: list[list[int]], soc: str
) -> tuple[list[list[Phase]], Counter[str]]:
    """Returns what `run` does of an engine on another SoC or with graphs, and how its rows were sent."""
    ranks, ways = call_apart(
        folder,
        run,
        case.engine(models),
        prompts,
        THRESHOLDS,
        num_ranks=case.layout.num_ranks,
        soc=soc,
        compiles=bool(case.capture_sizes),
        deadline_s=DEADLINE_S,
        split=case.split,
    )
    return ranks, ways


@long_table
@pytest.mark.parametrize("name", [name for name in ON_A2 if ON_A2[name].capture_sizes])
def test_beside_graphs(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    tmp_path: Path,
    name: str,
) -> None:
    """Steps of captured sizes replay vllm-ascend's own layers, and drafts, and larger ones are scattered."""
    ranks, ways = run_apart(tmp_path, ON_A2[name], models, prompts, A2_SOC)
    check(ON_A2[name], ranks, models, prompts, expected)
    for _, always in ranks:
        check_own_counts(always)
    assert ways[REPLAY] > 0
    assert others(race_reports.take(), CAPTURE) == []


@long_table
@pytest.mark.parametrize("name", ON_A3)
def test_on_an_a3(
    models: dict[str, str],
    prompts: list[list[int]],
    expected: list[tuple[int, ...]],
    race_reports: Findings,
    tmp_path: Path,
    name: str,
) -> None:
    """Rows are sent to the experts, by MC2 in small steps and by all-to-all in others; none is gathered behind."""
    case = ON_A3[name]
    ranks, ways = run_apart(tmp_path, case, models, prompts, A3_SOC)
    check(case, ranks, models, prompts, expected)
    for plain, always in ranks:
        check_own_counts(always)
        assert plain.sent["HcclReduceScatter"] == 0
    assert min(ways["MC2"], ways["All2AllV"]) > 0
    assert (ways[REPLAY] > 0) == bool(case.capture_sizes)
    assert others(race_reports.take(), CAPTURE) == []
