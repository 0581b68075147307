# SPDX-License-Identifier: Apache-2.0
"""Configurations that cannot work end with one clear message, before any process is started for them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
LOAD_ON: dict[str, Any] = {"ascend_ext": {"eplb_load": {"enabled": True}}}
_DEADLINE_S = 240.0
# a model without experts; its configuration is all that is read
DENSE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}


@dataclass(frozen=True)
class Case:
    """Arguments of the engine besides the model, and what the error says; nothing means accepted."""

    arguments: dict[str, Any]
    says: tuple[str, ...] = ()
    error: str = "UnsupportedCombinationError"
    additional_config: dict[str, Any] = field(default_factory=lambda: LOAD_ON)
    environment: dict[str, str] = field(default_factory=dict)
    dense: bool = False
    device: str | None = None
    num_lines: int = 1


def _config_case(additional_config: dict[str, Any], *says: str) -> Case:
    return Case({}, says, error="StartupError", additional_config=additional_config)


def _load_on(**settings: Any) -> dict[str, Any]:
    return {"ascend_ext": {"eplb_load": {"enabled": True, **settings}}}


def _gather_on(**settings: Any) -> dict[str, Any]:
    return {"ascend_ext": {"dp_gather": {"enabled": True, **settings}}}


_DP = {"data_parallel_size": 2, "enable_expert_parallel": True}
_SCATTER: dict[str, Any] = {"ascend_ext": {"attn_scatter": {"enabled": True}}}
# for its draft model's configuration vLLM gives the target's
_NGRAM = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}}


def _output_on(**settings: Any) -> dict[str, Any]:
    return {"ascend_ext": {"mtp_output": {"enabled": True, **settings}}}


_EPLB = {"tensor_parallel_size": 2, "enable_expert_parallel": True, "enable_eplb": True}

CASES = {
    "accepted": Case({"tensor_parallel_size": 2, "enable_expert_parallel": True}),
    "nothing configured": Case({}, additional_config={}),
    "unknown section": _config_case(
        {"ascend_ext": {"eplb_lod": {"enabled": True}}}, "ascend_ext.eplb_lod", "'eplb_load'"
    ),
    "unknown key": _config_case(
        {"ascend_ext": {"eplb_load": {"enable": True}}}, "ascend_ext.eplb_load.enable", "'enabled'"
    ),
    "misspelt name": _config_case({"ascend-ext": {}}, "ascend-ext", "'ascend_ext'"),
    "wrong type": _config_case(
        {"ascend_ext": {"eplb_load": {"enabled": "yes"}}}, "ascend_ext.eplb_load.enabled", "bool", "'yes'"
    ),
    "no mapping": _config_case({"ascend_ext": True}, "ascend_ext", "mapping", "True"),
    "pipeline": Case({"pipeline_parallel_size": 2}, ("pipeline parallelism", "pipeline_parallel_size=1")),
    "context": Case({"prefill_context_parallel_size": 2}, ("context parallelism", "set it to 1")),
    "fp8 cache": Case({"kv_cache_dtype": "fp8"}, ("kv_cache_dtype='fp8'", "'auto'")),
    "own worker": Case({"worker_cls": "my_package.MyWorker"}, ("my_package.MyWorker", "'auto'")),
    "no experts, ngram": Case(_NGRAM, ("eplb_load", "mixture-of-experts"), dense=True),
    "no experts": Case({}, ("eplb_load", "mixture-of-experts"), dense=True),
    "routed experts": Case({"enable_return_routed_experts": True}, ("enable_return_routed_experts",)),
    "sum on the device": Case(
        {}, ("aggregation='device'", "'host'"), additional_config=_load_on(aggregation="device")
    ),
    "rebalancing without EPLB": Case({}, ("enable_eplb",), additional_config=_load_on(rebalance=True)),
    "rebalancing too early": Case(
        {**_EPLB, "eplb_config": {"step_interval": 32, "use_async": False}},
        ("rebalance_lead=8", "at least 36"),
        additional_config=_load_on(rebalance=True),
    ),
    "logged balancedness": Case(
        {**_EPLB, "eplb_config": {"log_balancedness": True, "use_async": False}},
        ("log_balancedness", "/metrics"),
        additional_config=_load_on(rebalance=True),
    ),
    "rebalancing": Case(
        {**_EPLB, "eplb_config": {"use_async": False}}, additional_config=_load_on(rebalance=True)
    ),
    "planned gather": Case(_DP, additional_config=_gather_on(rule="cost", machine="h20")),
    "gather of one replica": Case({}, ("data_parallel_size is 1",), additional_config=_gather_on()),
    "gather without experts, ngram": Case(
        {"data_parallel_size": 2, **_NGRAM}, ("dp_gather", "has none"), additional_config=_gather_on(), dense=True
    ),
    "gather without experts": Case(
        {"data_parallel_size": 2}, ("dp_gather", "has none"), additional_config=_gather_on(), dense=True
    ),
    "cost without a machine": Case(
        _DP, ("rule='cost'", "dp_gather.machine"), additional_config=_gather_on(rule="cost")
    ),
    "unknown machine": Case(
        _DP, ("dp_gather.machine", "h20, mi355x"), additional_config=_gather_on(machine="cray")
    ),
    "promises about the next pass by another scheduler": Case(
        {**_DP, "scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"},
        ("dp_gather.counts_ahead", "leave scheduler_cls unset"),
        additional_config=_gather_on(counts_ahead=True),
    ),
    "gather and routed experts": Case(
        {**_DP, "enable_return_routed_experts": True},
        ("dp_gather", "enable_return_routed_experts"),
        additional_config=_gather_on(),
    ),
    "gather with dual batches": Case(
        {**_DP, "worker_cls": "vllm_ascend_ext.integration.cpu_platform.worker.TorchCPUWorker"},
        ("dp_gather", "enable_dbo"),
        additional_config=_gather_on(),
        device="cpu",
    ),
    "gather on a GPU": Case(
        {**_DP, "worker_cls": "vllm.v1.worker.gpu_worker.Worker"},
        ("dp_gather has not run on this kind of device",),
        additional_config=_gather_on(),
        device="cuda",
        num_lines=2,
    ),
    "output": Case(
        {"speculative_config": {"method": "mtp", "num_speculative_tokens": 2}}, additional_config=_output_on()
    ),
    "output of a dense model, without drafts": Case({}, additional_config=_output_on(top_k=0), dense=True),
    "output of all log-probabilities, ngram": Case(
        {"max_logprobs": -1, **_NGRAM}, ("mtp_output", "set it to 20"), additional_config=_output_on()
    ),
    "output to nowhere": Case(
        {}, ("mtp_output", "`endpoint`", "'zmq'"), additional_config=_output_on(transport="zmq")
    ),
    "output of all log-probabilities": Case(
        {"max_logprobs": -1}, ("mtp_output", "set it to 20"), additional_config=_output_on()
    ),
    "output of routed experts": Case(
        {"enable_return_routed_experts": True}, ("mtp_output", "turn one off"), additional_config=_output_on()
    ),
    "interval of nothing": _config_case(
        {"ascend_ext": {"eplb_load": {"interval": 0}}}, "ascend_ext.eplb_load.interval", "at least 1", "0"
    ),
    "dual batch on a GPU": Case(
        {"worker_cls": "vllm.v1.worker.gpu_worker.Worker"}, ("enable_dbo",), device="cuda"
    ),
    "dual batch": Case(
        {"enable_dbo": True, "all2all_backend": "deepep_low_latency"}, ("micro-batches", "enable_dbo"), num_lines=3
    ),
    "micro-batches": Case(
        {"ubatch_size": 2, "data_parallel_size": 2}, ("micro-batches", "ubatch_size"), num_lines=2
    ),
    "other device": Case({}, ("cpu, cuda, npu", "'xpu'"), device="xpu"),
    "other all-to-all": Case({"all2all_backend": "deepep_low_latency"}, ("'allgather_reducescatter'",)),
    "KV transfer": Case(
        {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}}, ("KV transfer",)
    ),
    "LoRA on experts": Case({"enable_lora": True}, ("LoRA", "enable_lora")),
    "sparse attention": Case({"hf_overrides": {"index_topk": 2048}}, ("sparse attention",)),
    "EPLB over NCCL": Case(
        {
            "tensor_parallel_size": 2,
            "enable_expert_parallel": True,
            "enable_eplb": True,
            "eplb_config": {"communicator": "torch_nccl"},
        },
        ("torch_nccl", "torch_gloo"),
    ),
    "other runner": Case(
        {}, ("VLLM_USE_V2_MODEL_RUNNER=0",), environment={"VLLM_USE_V2_MODEL_RUNNER": "1"}, num_lines=2
    ),
    "scattered": Case({"tensor_parallel_size": 2}, additional_config=_SCATTER),
    "scattered on one rank": Case({}, ("attn_scatter", "of which there is one"), additional_config=_SCATTER),
    "FP8 wire without its gather": Case(
        {"tensor_parallel_size": 2},
        ("attn_scatter.fp8_wire", "attn_scatter.full to true"),
        additional_config={"ascend_ext": {"attn_scatter": {"enabled": True, "fp8_wire": True}}},
    ),
    "no model": Case({"model": "no/such/directory"}, ("no/such/directory",), error=""),
}


@pytest.fixture(scope="module")
def outcomes(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases in one process: {name: [type of the error, message], or None}."""
    dense = tmp_path_factory.mktemp("dense")
    (dense / "config.json").write_text(json.dumps(DENSE))
    cases = {}
    for name, case in CASES.items():
        common = {"max_model_len": 512, "enforce_eager": True, "additional_config": case.additional_config}
        model = str(dense) if case.dense else tiny_model
        cases[name] = {
            "arguments": {"model": model, **common, **case.arguments},
            "environment": case.environment,
            "device": case.device,
        }
    done = subprocess.run(
        [sys.executable, "-m", "tests.startup.startup_cases"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=_DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", CASES)
def test_configuration(outcomes: dict[str, Any], name: str) -> None:
    case = CASES[name]
    if not case.says:
        assert outcomes[name] is None
        return
    assert outcomes[name] is not None, "accepted"
    error, message = outcomes[name]
    assert case.error in ("", error), message
    for words in case.says:
        assert words in message
    if case.error:
        assert len(message.splitlines()) == case.num_lines, message
