# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` with counts known ahead: engine cores of their own under asynchronous scheduling, workers in other
processes, a cache so small that requests are preempted, requests that are given up, waves that end."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.dp_gather.test_engine import gathering, make_prompts
from tests.support.long_tables import long_table
from tests.support.server import MODEL_NAME, Server
from vllm_ascend_ext.tools.engine import EngineCase, run_engine

pytestmark = [pytest.mark.engine, long_table, pytest.mark.usefixtures("vllm_preloaded")]

LENGTHS = [5, 140, 9, 230, 3, 17, 61, 100, 1, 33, 180, 77]
NUM_TOKENS = 150
ARGUMENTS = (
    *("--data-parallel-size", "2", "--enable-expert-parallel", "--distributed-executor-backend", "mp"),
    *("--dtype", "float32", "--max-num-batched-tokens", "192", "--max-num-seqs", "16"),
    *("--block-size", "16", "--num-gpu-blocks-override", "34", "--no-enable-prefix-caching"),
    *("--speculative-config", json.dumps({"method": "mtp", "num_speculative_tokens": 2})),
    *("--additional-config", json.dumps({"ascend_ext": gathering(counts_ahead=True, overlap_counts=True)})),
)


def post(server: Server, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=300)


def complete(server: Server, prompt: list[int], stream: bool = False) -> Any:
    body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0}
    return post(server, "/v1/completions", body | {"ignore_eos": True, "return_token_ids": True, "stream": stream})


def in_waves(server: Server, prompts: list[list[int]]) -> dict[int, tuple[int, ...]]:
    """Every prompt's tokens, sent in three waves, others being given up meanwhile."""
    tokens: dict[int, tuple[int, ...]] = {}

    def ask(index: int) -> None:
        with complete(server, prompts[index]) as answer:
            tokens[index] = tuple(json.load(answer)["choices"][0]["token_ids"])

    for wave in (range(10), range(10, 11), range(11, 12)):
        asking = [threading.Thread(target=ask, args=(index,)) for index in wave]
        for thread in asking:
            thread.start()
            time.sleep(0.01)
        complete(server, prompts[0], stream=True).close()
        for thread in asking:
            thread.join()
        time.sleep(4)  # a wave goes on for up to 32 passes
    return tokens


def num_preemptions(server: Server) -> float:
    """Of both replicas."""
    found = re.findall(r"vllm:num_preemptions_total\{.*\} (\S+)", server.get("/metrics")[1])
    assert len(found) == 2
    return sum(map(float, found))


def test_waves_preemption_and_aborts(tiny_model: str, tmp_path: Path) -> None:
    prompts = make_prompts(tiny_model, LENGTHS)
    server = Server(Path(tiny_model), ARGUMENTS, tmp_path, {"VLLM_SERVER_DEV_MODE": "1"})
    try:
        server.wait_until_healthy(600)  # a bound, not a measurement
        tokens = in_waves(server, prompts)
        for _ in range(4):  # whether requests meet that need more than the cache has is a matter of time
            if num_preemptions(server):
                break
            assert in_waves(server, prompts) == tokens
        with post(server, "/collective_rpc", {"method": "ascend_ext_report"}) as answer:
            counts = json.load(answer)["results"][0]["dp_gather"]["counts"]
        assert counts["num_ahead"] > counts["num_asked"] > 0
        assert num_preemptions(server) > 0
        assert "Asynchronous scheduling is enabled" in server.output()
    finally:
        server.stop()
    expected = run_engine(EngineCase(tiny_model), prompts, max_tokens=NUM_TOKENS, deadline_s=200).token_ids
    assert [tokens[index] for index in range(len(prompts))] == expected
