# SPDX-License-Identifier: Apache-2.0
"""Checks, on the emulator, that quantised layers and dispatches without a gather are refused before loading."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.emulator, pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

ON = {"eplb_load": {"enabled": True}, "dp_gather": {"enabled": True}}


def test_quantised_layers_and_other_dispatches_are_refused_by_configuration(tiny_model: str) -> None:
    """A supported engine, then the same with quantised weights, then with as many ranks as make an A2 use MC2."""

    def job(rank: Rank) -> list[list[str]]:
        from vllm.engine.arg_utils import EngineArgs

        from vllm_ascend_ext.config import ExtConfig
        from vllm_ascend_ext.integration.startup.checks import refusals_of

        arguments: dict[str, Any] = {"data_parallel_size": 2, "enable_expert_parallel": True}
        engine = EngineArgs(model=tiny_model, enforce_eager=True, max_model_len=512, **arguments)
        vllm_config = engine.create_engine_config()
        config = ExtConfig.model_validate(ON)

        def settings() -> list[str]:
            found = refusals_of(vllm_config, config, "npu")
            return sorted(f"{refusal.subject}: {refusal.setting}" for refusal in found)

        plain = settings()
        vllm_config.model_config.quantization = "ascend"
        quantised = settings()
        vllm_config.model_config.quantization = None
        vllm_config.parallel_config.data_parallel_size = 16
        return [plain, quantised, settings()]

    [(plain, quantised, many)] = run_ranks(job, Layout(), deadline_s=120)
    assert plain == []
    assert sorted(quantised) == [
        "ascend_ext.dp_gather: quantization",
        "ascend_ext.eplb_load: quantization",
    ]
    assert many == ["ascend_ext.dp_gather: enable_expert_parallel"]  # rows that are not gathered are counted
