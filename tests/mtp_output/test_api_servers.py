# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` with two API servers under a prefix, or two replicas: /metrics, a full ring, and the end."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.long_tables import long_table
from tests.support.saved_output import next_instance
from tests.support.server import MODEL_NAME, Server
from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, NoFrameError
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.folder import ring_path

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_FRAMES, NUM_TOKENS = 8, 24
OURS = "vllm:ascend_ext_"
OUTPUT = f"{OURS}mtp_output_"


TWO_SERVERS = ("--api-server-count", "2", "--root-path", "/llm")
TWO_REPLICAS = ("--data-parallel-size", "2", "--enable-expert-parallel")  # vLLM starts as many API servers


def arguments(instance: int) -> tuple[str, ...]:
    features = {
        "mtp_output": {"enabled": True, "instance": instance, "frames": NUM_FRAMES, "deadline_s": 120},
        "eplb_load": {"enabled": True, "interval": 1},
    }
    return "--dtype", "float32", "--additional-config", json.dumps({"ascend_ext": features})


class Reader(threading.Thread):
    """Acknowledges the frames of a replica until it is told to pause."""

    def __init__(self, instance: int, replica: int = 0) -> None:
        super().__init__(daemon=True)
        self._receiver = OutputReceiver(instance, replica, timeout_s=60)
        self.reads = threading.Event()
        self.reads.set()
        self.num_tokens = 0
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.reads.wait()
                try:
                    frame = self._receiver.receive(0.1)
                except NoFrameError:
                    continue
                self._receiver.acknowledge()
                self.num_tokens += sum(int(section.num_accepted_B.sum()) for section in frame.sections)
        except ChannelClosedError:
            self._receiver.close()


def complete(server: Server) -> None:
    body = {"model": MODEL_NAME, "prompt": "def main(", "max_tokens": NUM_TOKENS, "ignore_eos": True}
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/completions", data, headers)
    with urllib.request.urlopen(request, timeout=240) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == NUM_TOKENS


def scrape(server: Server, path: str = "/metrics") -> tuple[dict[str, float], float]:
    """What one scrape shows of ours, and how long it took. A name that comes twice is an error."""
    begin = time.monotonic()
    status, text = server.get(path)
    took_s = time.monotonic() - begin
    assert status == 200
    rows = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    assert any(name.startswith("vllm:num_requests_running") for name, _, _ in rows)  # vLLM's own
    names = [name for name, _, _ in rows if name.startswith(OURS)]
    assert len(names) == len(set(names)), names
    return {name.partition("{")[0]: float(value) for name, _, value in rows if name.startswith(OURS)}, took_s


@contextmanager
def serving(model: str, folder: Path, instance: int, launch: tuple[str, ...]) -> Iterator[Server]:
    server = Server(Path(model), (*launch, *arguments(instance)), folder)
    try:
        server.wait_until_healthy(600)  # a bound, not a measurement
        yield server
    finally:
        server.stop()


def test_metrics_of_two_servers_and_their_end(tiny_model: str, tmp_path: Path) -> None:
    instance = next_instance()
    with serving(tiny_model, tmp_path, instance, TWO_SERVERS) as server:
        reader = Reader(instance)
        for total in (NUM_TOKENS, 2 * NUM_TOKENS):
            complete(server)
            time.sleep(1.1)
            for path in ("/metrics", "/llm/metrics"):
                for _ in range(7):  # of both servers, as it happens
                    values, _ = scrape(server, path)
                    assert values[f"{OUTPUT}tokens_total"] == total == reader.num_tokens
                    assert values[f"{OUTPUT}ring_capacity"] == NUM_FRAMES
                    assert values[f"{OURS}eplb_load_tokens_total"] >= total - 1
        reader.reads.clear()
        client = threading.Thread(target=complete, args=(server,))
        client.start()
        deadline = time.monotonic() + 60
        while scrape(server)[0][f"{OUTPUT}ring_occupancy"] < NUM_FRAMES and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1.5)
        blocked = []
        for _ in range(6):
            values, took_s = scrape(server)
            assert took_s < 0.9 and values[f"{OUTPUT}ring_occupancy"] == NUM_FRAMES
            blocked.append(values[f"{OUTPUT}blocked_seconds_total"])
        assert blocked == sorted(set(blocked)) and blocked[0] > 1
        assert any(scrape(server)[0][f"{OURS}refresh_failures_total"] > 0 for _ in range(4))
        reader.reads.set()
        client.join(120)
        deadline = time.monotonic() + 60  # the answer may be there before the reader has had its last frame
        while reader.num_tokens < 3 * NUM_TOKENS and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not client.is_alive() and reader.num_tokens == 3 * NUM_TOKENS
        server._process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended(60) == 0
        server.wait_until_nothing_is_left(60)
        reader.join(10)
    assert "force killing" not in server.output()
    assert not ring_path(instance, 0).exists()


@long_table
def test_metrics_of_two_replicas(tiny_model: str, tmp_path: Path) -> None:
    """Whatever server answers, it counts both replicas, none twice, no value older than a second."""
    instance = next_instance()
    with serving(tiny_model, tmp_path, instance, TWO_REPLICAS) as server:
        readers = [Reader(instance, replica) for replica in range(2)]
        for total in (4 * NUM_TOKENS, 8 * NUM_TOKENS):
            clients = [threading.Thread(target=complete, args=(server,)) for _ in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join(120)
            time.sleep(1.1)
            for _ in range(10):
                values, _ = scrape(server)
                assert values[f"{OUTPUT}tokens_total"] == total == sum(reader.num_tokens for reader in readers)
                assert values[f"{OUTPUT}ring_capacity"] == 2 * NUM_FRAMES
                assert values[f"{OURS}eplb_load_tokens_total"] >= total - 8
        assert all(reader.num_tokens > 0 for reader in readers)
        reports = json.loads(server.get("/ascend_ext/report")[1])
        assert [(report["replica"], report["rank"]) for report in reports] == [(0, 0), (1, 0)]
        assert sum(report["mtp_output"]["tokens"] for report in reports) == total
        server._process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended(60) == 0
        server.wait_until_nothing_is_left(60)
    assert "force killing" not in server.output()
