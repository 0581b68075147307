# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` with MTP output: its workers are processes of their own, an observer looks on, /metrics counts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.saved_output import next_instance
from tests.support.server import MODEL_NAME, Server
from vllm_ascend_ext.mtp_output.ring.folder import ring_path

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_TOKENS = (24, 31, 40)
TAIL = "import sys; from vllm_ascend_ext.cli import main; sys.exit(main())"


def arguments(instance: int) -> tuple[str, ...]:
    output = {"enabled": True, "reader": "none", "instance": instance}
    return (
        *("--tensor-parallel-size", "2", "--dtype", "float32"),
        *("--speculative-config", json.dumps({"method": "mtp", "num_speculative_tokens": 2})),
        *("--additional-config", json.dumps({"ascend_ext": {"mtp_output": output}})),
    )


def complete(server: Server, num_tokens: int) -> dict[str, Any]:
    body = {"model": MODEL_NAME, "prompt": "def main(", "max_tokens": num_tokens, "temperature": 0}
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        json.dumps(body | {"ignore_eos": True, "return_token_ids": True, "repetition_penalty": 1.1}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def test_an_observer_sees_what_clients_get(tiny_model: str, tmp_path: Path) -> None:
    """Asynchronous scheduling, two worker processes, penalties, which the other rank needs the tokens for."""
    instance = next_instance()
    server = Server(Path(tiny_model), arguments(instance), tmp_path)
    try:
        server.wait_until_healthy(600)  # a bound, not a measurement
        command = [sys.executable, "-c", TAIL, "tail", "--json", "--instance", str(instance)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
            assert tail.stderr is not None and "looking on" in tail.stderr.readline()
            answers = [complete(server, count) for count in NUM_TOKENS]
            time.sleep(2)  # of looking on after the last token
            tail.send_signal(signal.SIGINT)
            out, err = tail.communicate(timeout=60)
        assert tail.returncode == 130 and err.splitlines() == ["vllm-ascend-ext: interrupted"]
        *frames, sums = [json.loads(line) for line in out.splitlines()]
        told: dict[str, list[int]] = {}
        for row in (row for frame in frames for row in frame["requests"]):
            told.setdefault(row["request_id"], []).extend(row["token_ids"])
        assert sums["missed"] == 0 and sums["tokens"] == sum(NUM_TOKENS)
        for answer, count in zip(answers, NUM_TOKENS, strict=True):
            (tokens,) = [tokens for name, tokens in told.items() if name.startswith(answer["id"])]
            assert tokens == answer["choices"][0]["token_ids"] and len(tokens) == count
        status, metrics = server.get("/metrics")
        assert status == 200
        values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if "ascend_ext_mtp_output_" in line)
        label = f'{{model_name="{MODEL_NAME}"}}'
        assert float(values[f"vllm:ascend_ext_mtp_output_frames_total{label}"]) >= len(frames)
        assert float(values[f"vllm:ascend_ext_mtp_output_tokens_total{label}"]) >= sum(NUM_TOKENS)
        drafts = f'{{model_name="{MODEL_NAME}",position="1"}}'
        assert float(values[f"vllm:ascend_ext_mtp_output_drafts_total{drafts}"]) >= sums["drafts"][1] > 0
        assert "Asynchronous scheduling is enabled" in server.output()
    finally:
        server.stop()
    assert "force killing" not in server.output()  # vLLM's way to stop leaves workers no time to close their rings
    assert not ring_path(instance, 0).exists()
