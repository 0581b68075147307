# SPDX-License-Identifier: Apache-2.0
"""What commitments about the next pass refuse, each time for one reason only, and the scheduler they need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.dp_gather.commitment import OPEN, Commitment
from vllm_ascend_ext.integration.dp_gather import limits as dp_gather_limits
from vllm_ascend_ext.integration.dp_gather.counts import limits as counts_ahead_limits
from vllm_ascend_ext.integration.dp_gather.counts.ahead import attach, attached
from vllm_ascend_ext.integration.errors import IncompatibleVllmError, UnsupportedCombinationError


def speculative(method: str, **changes: Any) -> Any:
    return SimpleNamespace(**{"method": method, "parallel_drafting": False} | changes)


def vllm_config(**changes: Any) -> Any:
    """A supported one, changed at top-level names."""
    settings = {
        "parallel_config": SimpleNamespace(pipeline_parallel_size=1, distributed_executor_backend="mp"),
        "scheduler_config": SimpleNamespace(scheduler_cls=None, async_scheduling=False),
        "compilation_config": SimpleNamespace(pass_config=SimpleNamespace(enable_sp=None)),
        "kv_transfer_config": None,
        "ec_transfer_config": None,
        "speculative_config": None,
    }
    return SimpleNamespace(**settings | changes)


def message(config: Any, *, routes_itself: bool = False) -> str:
    """Of the refusal; empty when there is none."""
    try:
        counts_ahead_limits.check(config, routes_itself=routes_itself)
    except UnsupportedCombinationError as error:
        return str(error)
    return ""


def test_supported() -> None:
    assert message(vllm_config()) == ""
    for method in ("mtp", "eagle", "eagle3", "ngram"):
        assert message(vllm_config(speculative_config=speculative(method))) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {
                "parallel_config": SimpleNamespace(
                    pipeline_parallel_size=2, distributed_executor_backend="external_launcher"
                )
            },
            "pipeline stages",
        ),
        ({"kv_transfer_config": object()}, "leave kv_transfer_config"),
        ({"ec_transfer_config": object()}, "leave kv_transfer_config and ec_transfer_config unset"),
        ({"scheduler_config": SimpleNamespace(scheduler_cls="mine.Scheduler")}, "leave scheduler_cls unset"),
        ({"speculative_config": speculative("draft_model")}, "knows the rows of the drafts of mtp"),
        ({"speculative_config": speculative("mtp", parallel_drafting=True)}, "without parallel_drafting"),
        (
            {"compilation_config": SimpleNamespace(pass_config=SimpleNamespace(enable_sp=True))},
            "turn the enable_sp pass off",
        ),
    ],
)
def test_refused(changes: dict[str, Any], reason: str) -> None:
    text = message(vllm_config(**changes))
    assert text.startswith("ascend_ext.dp_gather.counts_ahead ") and reason in text
    assert "counts_ahead to false" in text


def test_an_engine_core_that_runs_no_dummies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    assert "set VLLM_ENABLE_V1_MULTIPROCESSING to 1 or set" in message(vllm_config())
    launched = SimpleNamespace(pipeline_parallel_size=1, distributed_executor_backend="external_launcher")
    assert message(vllm_config(parallel_config=launched)) == ""


def test_ascend_and_graphs() -> None:
    assert "not built for vllm-ascend" in message(vllm_config(), routes_itself=True)
    from vllm.config import CUDAGraphMode

    runner = SimpleNamespace(compilation_config=SimpleNamespace(cudagraph_mode=CUDAGraphMode.PIECEWISE))
    with pytest.raises(UnsupportedCombinationError, match="commit to the graph's size too"):
        dp_gather_limits.check_graphs(runner, DpGatherConfig(counts_ahead=True))


def test_the_scheduler_is_ours_also_the_second_time() -> None:
    for is_async, name in ((False, "CommittingScheduler"), (True, "CommittingAsyncScheduler")):
        scheduler = SimpleNamespace(scheduler_cls=None, async_scheduling=is_async)
        counts_ahead_limits.use_scheduler(scheduler)
        assert scheduler.scheduler_cls == f"vllm_ascend_ext.integration.dp_gather.counts.scheduler.{name}"
        assert message(vllm_config(scheduler_config=scheduler)) == ""


def test_a_step_without_a_commitment_is_refused() -> None:
    output = SimpleNamespace(total_num_scheduled_tokens=3)
    with pytest.raises(IncompatibleVllmError, match="came without a commitment"):
        attached(output)
    attach(output, Commitment(4, 2))
    assert attached(output) == Commitment(4, 2)
    attach(output, OPEN)
    assert attached(output) == OPEN
    assert attached(SimpleNamespace(total_num_scheduled_tokens=0)) is None  # no pass
