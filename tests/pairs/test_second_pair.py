# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend 0.30 on vLLM 0.30: our section reaches every process, and what has not run there is refused.

Tokens, loads and frames are compared by the same tests as on the first pair (docs/ci.md names them). In its own
environment on the emulator.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emulator.findings import Findings
from tests.pairs.marks import SECOND, on_second_pair
from tests.support.engines.upstream_races import CORRECTED_COUNTS, DROPPED_OUTPUT, others
from tests.support.server import MODEL_NAME, TWO_RANKS, Server
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    on_second_pair,
]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 300
COMMAND = "import sys; from vllm_ascend_ext.cli import main; sys.exit(main())"
START = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(**json.loads(sys.argv[1]))
    (answer,) = llm.generate(["The quick brown fox"], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    with open(sys.argv[2], "w") as file:
        json.dump([list(answer.outputs[0].token_ids), llm.collective_rpc("ascend_ext_report")], file)
"""


def arguments(model: str, config: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "model": model,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 6,
        "kv_cache_memory_bytes": 64 << 20,
        "additional_config": config,
        **others,
    }


def test_a_spawned_engine_core_gets_an_empty_section(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine core reads vllm-ascend's configuration before any plug-in is loaded there."""
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    program, answer = tmp_path / "start.py", tmp_path / "answer.json"
    program.write_text(START)
    options = arguments(tiny_model, {"ascend_ext": {}, "refresh": True})
    command = [sys.executable, str(program), json.dumps(options), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    tokens, [report] = json.loads(answer.read_text())
    assert len(tokens) == 8 and report["eplb_load"] is None


def test_a_server_with_drafts_counts_and_ends(tiny_model: str, tmp_path: Path, race_reports: Findings) -> None:
    """The section reaches spawned workers, and the configuration that is made once more for the draft model; a
    killed worker is an exit status of 1, and nothing is left."""
    server = Server(Path(tiny_model), (*TWO_RANKS, "--dtype", "float32"), tmp_path)
    try:
        server.wait_until_healthy(DEADLINE_S)
        request = {"model": MODEL_NAME, "prompt": "def f(", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        status, answer = server.ask("POST", "/v1/completions", request, timeout_s=DEADLINE_S)
        assert status == 200 and json.loads(answer)["usage"]["completion_tokens"] == 8
        _, metrics = server.get("/metrics")
        assert "vllm:ascend_ext_eplb_load_tokens_total{" in metrics
        os.kill(server.workers()[1], signal.SIGKILL)
        assert server.wait_until_ended(DEADLINE_S) == 1
        server.wait_until_nothing_is_left(DEADLINE_S)
    finally:
        server.stop()
    assert others(race_reports.take(), (CORRECTED_COUNTS, DROPPED_OUTPUT)) == []


def configured(options: dict[str, Any]) -> list[str]:
    """What refuses the arguments of an engine, a line each, in a process of its own; empty when nothing does."""

    def job(rank: Rank) -> list[str]:
        from vllm.engine.arg_utils import EngineArgs

        try:
            EngineArgs(**options).create_engine_config()
        except Exception as error:
            return str(error).splitlines()
        return []

    [lines] = run_ranks(job, Layout(), deadline_s=DEADLINE_S)
    return lines


LOAD = {"ascend_ext": {"eplb_load": {"enabled": True}}}


@pytest.mark.usefixtures("vllm_preloaded")
def test_keys_of_others_still_fail(tiny_model: str) -> None:
    assert configured(arguments(tiny_model, LOAD)) == []
    text = "\n".join(configured(arguments(tiny_model, LOAD | {"other_plugin": {}})))
    assert "other_plugin" in text and "ascend_ext" not in text


@pytest.mark.usefixtures("vllm_preloaded")
@pytest.mark.parametrize(
    ("others", "refused"),
    [
        (
            {"data_parallel_size": 2},
            "with data parallelism without expert parallelism on this vllm-ascend",
        ),
        ({"pipeline_parallel_size": 2}, "with pipeline parallelism on this vllm-ascend"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
            "with other drafts than MTP's and EAGLE-3's on this vllm-ascend",
        ),
        ({"enable_lora": True}, "with LoRA on this vllm-ascend"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_ways_that_have_not_run_are_refused(tiny_model: str, others: dict[str, Any], refused: str) -> None:
    (line,) = configured(arguments(tiny_model, LOAD, **others))
    assert line.startswith(f"ascend_ext is not verified {refused};") and "0.23.0.post1" in line


@pytest.mark.usefixtures("vllm_preloaded")
def test_the_second_runner_is_refused(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    lines = configured(arguments(tiny_model, LOAD))
    assert any(line.startswith("ascend_ext is not verified with the V2 model runner") for line in lines), lines


@pytest.mark.usefixtures("vllm_preloaded")
def test_features_that_have_not_run_are_refused(tiny_model: str) -> None:
    on = {"ascend_ext": {"dp_gather": {"enabled": True}, "eplb_load": {"enabled": True, "rebalance": True}}}
    lines = configured(arguments(tiny_model, on))
    assert any(line.startswith(f"ascend_ext.dp_gather has not run with {SECOND}") for line in lines)
    assert any(line.startswith("ascend_ext.eplb_load.rebalance ") for line in lines)


@pytest.mark.usefixtures("vllm_preloaded")
def test_a_feature_that_takes_vllms_layers_apart_is_refused(tiny_model: str) -> None:
    lines = configured(arguments(tiny_model, {"ascend_ext": {"attn_scatter": {"enabled": True}}}))
    assert any(line.startswith("ascend_ext.attn_scatter ") for line in lines)


def test_doctor_finds_every_seam() -> None:
    command = [sys.executable, "-c", COMMAND, "doctor", "--seams", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, check=False)
    assert {(row["device"], row["state"]) for row in json.loads(done.stdout)} == {("npu", "ok")}
