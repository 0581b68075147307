# SPDX-License-Identifier: Apache-2.0
"""Two nodes on one machine by vLLM's own launch: what a headless one says and answers when its head has gone."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.long_tables import long_table
from tests.support.server import HOST, MODEL_NAME, Server, free_port

pytestmark = [pytest.mark.engine, long_table]

FEATURES = {"eplb_load": {"enabled": True, "deadline_s": 10}, "dp_gather": {"enabled": True, "deadline_s": 10}}
_START_S, _END_S = 600.0, 120.0  # bounds, not measurements


def _complete(server: Server) -> None:
    body = {"model": MODEL_NAME, "prompt": "def main(", "max_tokens": 400, "ignore_eos": True, "n": 8}
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with contextlib.suppress(OSError, http.client.HTTPException):
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/completions", data, headers), timeout=240)


@pytest.mark.parametrize("is_idle", [False, True], ids=["at work", "idle"])
def test_a_headless_node_whose_head_dies_ends_with_an_error(
    tiny_model: str, tmp_path: Path, is_idle: bool
) -> None:
    launch = (
        *("--data-parallel-size", "2", "--data-parallel-size-local", "1", "--data-parallel-address", HOST),
        *("--data-parallel-rpc-port", str(free_port()), "--enable-expert-parallel", "--dtype", "float32"),
        *("--additional-config", json.dumps({"ascend_ext": FEATURES})),
    )
    folders = [tmp_path / "head", tmp_path / "headless"]
    for folder in folders:
        folder.mkdir()
    head = Server(Path(tiny_model), launch, folders[0])
    headless = Server(Path(tiny_model), (*launch, "--headless", "--data-parallel-start-rank", "1"), folders[1])
    try:
        head.wait_until_healthy(_START_S)
        if not is_idle:
            client = threading.Thread(target=_complete, args=(head,), daemon=True)
            client.start()
            time.sleep(8)
            assert client.is_alive()
        for process in head.processes():
            process.kill()
        assert headless.wait_until_ended(_END_S) == 1, headless.output()[-3000:]
        if is_idle:  # at work a collective may fail first
            assert "ascend_ext: the head node at tcp://" in headless.output()
        last = headless.output().strip().splitlines()[-1]
        assert last.startswith("vllm-ascend-ext: error: this headless node has stopped"), last
    finally:
        head.stop()
        headless.stop()
    assert not headless.processes()
