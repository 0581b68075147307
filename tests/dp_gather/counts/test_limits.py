# SPDX-License-Identifier: Apache-2.0
"""What commitments about the next pass refuse, each time for one reason only, and the scheduler they need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.refused import refused
from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.dp_gather.commitment import OPEN, Commitment
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.dp_gather.counts import limits as counts_ahead_limits
from vllm_ascend_ext.integration.dp_gather.counts.ahead import attach, attached
from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.devices import DEVICES


def speculative(method: str, **changes: Any) -> Any:
    return SimpleNamespace(**{"method": method, "parallel_drafting": False} | changes)


def parallel(**changes: Any) -> Any:
    settings = {
        "pipeline_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "data_parallel_size": 2,
        "distributed_executor_backend": "mp",
        "all2all_backend": "allgather_reducescatter",
        "enable_elastic_ep": False,
        "use_ubatching": False,
    }
    return SimpleNamespace(**settings | changes)


def compilation(*, enable_sp: bool | None = None, cudagraph_mode: Any = None) -> Any:
    return SimpleNamespace(pass_config=SimpleNamespace(enable_sp=enable_sp), cudagraph_mode=cudagraph_mode)


def vllm_config(**changes: Any) -> Any:
    """A supported one, changed at top-level names."""
    settings = {
        "parallel_config": parallel(),
        "scheduler_config": SimpleNamespace(scheduler_cls=None, async_scheduling=False),
        "compilation_config": compilation(),
        "kv_transfer_config": None,
        "ec_transfer_config": None,
        "speculative_config": None,
        "model_config": None,
        "lora_config": None,
    }
    return SimpleNamespace(**settings | changes)


def message(config: Any, device_type: str = "cpu") -> str:
    """Returns the lines of all refusals by `counts_ahead`; empty when there is none."""
    lines = refused("dp_gather", config, device_type, counts_ahead=True)
    return "\n".join(line for line in lines if "counts_ahead" in line)


def test_supported() -> None:
    assert message(vllm_config()) == ""
    for method in ("mtp", "eagle", "eagle3", "ngram"):
        assert message(vllm_config(speculative_config=speculative(method))) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {
                "parallel_config": parallel(
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
            {"compilation_config": compilation(enable_sp=True)},
            "turn the enable_sp pass off",
        ),
    ],
)
def test_refused(changes: dict[str, Any], reason: str) -> None:
    text = message(vllm_config(**changes))
    assert len(text.splitlines()) == 1 and reason in text
    assert text.startswith("ascend_ext.dp_gather.counts_ahead ")
    assert "counts_ahead to false" in text


def test_an_engine_core_that_runs_no_dummies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    assert "set VLLM_ENABLE_V1_MULTIPROCESSING to 1 or set" in message(vllm_config())
    launched = parallel(distributed_executor_backend="external_launcher")
    assert message(vllm_config(parallel_config=launched)) == ""


def test_ascend_and_graphs() -> None:
    (rule,) = (rule for rule in counts_ahead_limits.RULES if "vllm-ascend" in rule.why)
    for device_type, is_refused in (("npu", True), ("cpu", False), ("cuda", False)):
        device = DEVICES[device_type]
        config = ExtConfig.model_validate({"dp_gather": {"enabled": True, "counts_ahead": True}})
        deployment = Deployment(vllm_config(), config, device, device.load_stack())
        assert (rule.check("dp_gather", deployment) is not None) == is_refused
    from vllm.config import CUDAGraphMode

    graphs = compilation(cudagraph_mode=CUDAGraphMode.PIECEWISE)
    text = message(vllm_config(compilation_config=graphs))
    assert len(text.splitlines()) == 1 and "commit to the graph's size too" in text


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
