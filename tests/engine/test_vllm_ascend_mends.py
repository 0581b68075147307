# SPDX-License-Identifier: Apache-2.0
"""Races of vllm-ascend's own runner: each is reported with our mend off, and none with it on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.findings import Findings
from tests.support.engines.a3 import run_on_a3
from tests.support.engines.apart import A2_SOC
from tests.support.engines.upstream_races import (
    CAPTURE,
    SAMPLES,
    VALID_COUNTS,
    UpstreamRace,
    others,
)
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, write_qwen3_moe
from tests.support.saved_output import next_instance, run_saved
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
    long_table,
]

DEADLINE_S = 300


def engine(model: str, mend_races: bool, **engine_args: Any) -> EngineCase:
    section = {"mtp_output": {"enabled": True, "instance": next_instance()}, "mend_races": mend_races}
    additional = {"ascend_ext": section, "ascend_compilation_config": {"enable_npugraph_ex": False}}
    return EngineCase(
        model,
        Layout(),
        ascend_ext=section,
        engine_args={"max_num_seqs": 4, "additional_config": additional} | engine_args,
    )


def assert_reported(reports: list[str], races: Sequence[UpstreamRace], is_mended: bool) -> None:
    found = [race for race in races if any(race.is_in(report) for report in reports)]
    assert bool(found) != is_mended, reports


def test_samples(tiny_model: str, race_reports: Findings) -> None:
    """With asynchronous scheduling the next step samples before the host has seen the last one's tokens."""
    prompts = make_prompts(tiny_model)[:6]
    sampling = [{"max_tokens": 12, "temperature": 1.0} for _ in prompts]
    for is_mended in (False, True):
        case = engine(tiny_model, is_mended, async_scheduling=True)
        run_saved(case, prompts, sampling, deadline_s=DEADLINE_S)
        reports = race_reports.take()
        assert_reported(reports, [SAMPLES], is_mended)
        assert others(reports, [SAMPLES]) == []


def test_captures(tiny_model: str, race_reports: Findings, tmp_path: Path) -> None:
    """A mend changes an order, and no value: greedy tokens stay."""
    model, prompts, tokens = write_qwen3_moe(tmp_path, tiny_model), make_prompts(tiny_model)[:4], []
    graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [2, 4]}
    for is_mended in (False, True):
        case = engine(model, is_mended, async_scheduling=False, enforce_eager=False, compilation_config=graphs)
        folder = tmp_path / str(is_mended)
        folder.mkdir()
        tokens.append(run_on_a3(folder, {"": case}, prompts, 12, DEADLINE_S, soc=A2_SOC)[""].result.token_ids)
        assert_reported(race_reports.take(), CAPTURE, is_mended)
    assert tokens[0] == tokens[1]


def test_counts_of_valid_tokens(race_reports: Findings) -> None:
    """By vllm-ascend's own method: whether a server's next tensor gets the counts' memory depends on its sizes."""

    def copy_counts(rank: Rank, is_mended: bool) -> None:
        import torch
        import torch_npu  # noqa: F401

        from vllm_ascend_ext.integration.workers.npu import ExtNPUModelRunner

        torch.npu.set_device(0)
        runner: Any = object.__new__(ExtNPUModelRunner)
        runner._mends_races, runner.use_async_spec_decode = is_mended, False
        runner.input_batch = SimpleNamespace()
        runner.valid_sampled_token_count_event = torch.npu.Event()
        runner.valid_sampled_token_count_copy_stream = torch.npu.Stream()
        runner.valid_sampled_token_count_cpu = torch.zeros(64, dtype=torch.int64).pin_memory()
        for _ in range(4):
            counts = torch.ones(64, dtype=torch.int64, device="npu")
            runner._copy_valid_sampled_token_count(torch.zeros(64, device="npu"), counts)
            del counts
            torch.full((64,), 7, dtype=torch.int64, device="npu")
            runner.valid_sampled_token_count_event.synchronize()
        torch.npu.synchronize()

    for is_mended in (False, True):
        run_ranks(lambda rank, is_mended=is_mended: copy_counts(rank, is_mended), Layout(), deadline_s=120)
        assert_reported(race_reports.take(), [VALID_COUNTS], is_mended)
