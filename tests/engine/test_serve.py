# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` with everything on: two hundred streams at once from the real client, and what a kill leaves.

One server answers the requests and then loses a worker, so that the tests of this file run in their order.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI

from tests.support.long_tables import long_table
from tests.support.server import MODEL_NAME, TWO_RANKS, Server

pytestmark = pytest.mark.engine

NUM_STREAMS = 200
PROMPTS = (
    "def add(a, b):\n    return",
    "import os\n\n\ndef",
    "class Stack:\n    def __init__(self):\n",
    "for i in range(",
    "if __name__ ==",
    "    try:\n        import json\n    except",
    "# The following code reads a file\nwith open(",
    "return [x for x in",
)
_START_S = 300.0  # of a server; about 50 s on two idle cores
_ANSWER_S = 300.0  # of all requests of a test together
_END_S = 60.0  # from a kill until nothing is left


@dataclass(frozen=True)
class Answer:
    """A stream from its first to its last event."""

    text: str
    finish_reason: str | None
    num_tokens: int


@contextmanager
def running_server(model: str, folder: Path) -> Iterator[Server]:
    """A healthy server of two ranks; whatever happens, none of its processes survives the block."""
    server = Server(Path(model), (*TWO_RANKS, "--dtype", "float32"), folder)
    try:
        server.wait_until_healthy(_START_S)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tiny_model, tmp_path_factory.mktemp("serve")) as running:
        yield running


def test_two_hundred_streams_at_once(server: Server) -> None:
    """Every stream is complete and says what the same prompt got alone."""

    async def job(client: AsyncOpenAI) -> tuple[list[Answer], list[Answer]]:
        alone = [await _stream(client, prompt, _num_tokens(i)) for i, prompt in enumerate(PROMPTS)]
        places = [i % len(PROMPTS) for i in range(NUM_STREAMS)]
        together = [_stream(client, PROMPTS[i], _num_tokens(i)) for i in places]
        return alone, await asyncio.gather(*together)

    alone, together = _with_client(server, job)
    for i, answer in enumerate(alone):
        assert answer.finish_reason == ("length" if answer.num_tokens == _num_tokens(i) else "stop")
        assert answer.num_tokens > 0
    assert together == [alone[i % len(PROMPTS)] for i in range(NUM_STREAMS)]
    assert "Asynchronous scheduling is enabled" in server.output()


def test_metrics_show_the_expert_load(server: Server) -> None:
    """After the two hundred streams: what the workers have handed over is on the API server's /metrics."""
    status, text = server.get("/metrics")
    assert status == 200
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("vllm:ascend_ext_eplb_load_")
    }

    def of(name: str, **labels: str) -> list[float]:
        wanted = [f'{key}="{value}"' for key, value in {"model_name": MODEL_NAME, **labels}.items()]
        return [
            value
            for key, value in values.items()
            if key.startswith(f"vllm:ascend_ext_eplb_load_{name}{{") and all(text in key for text in wanted)
        ]

    (tokens,) = of("tokens_total", model="target")
    assert tokens >= NUM_STREAMS
    (snapshots,), (handovers,) = of("snapshots_total"), of("handovers_total")
    assert 0 < handovers <= snapshots
    (seconds,) = of("handover_seconds_total")
    assert 0 < seconds < 60 * handovers
    assert of("refresh_failures_total") in ([], [0.0])
    assert len(of("imbalance_ratio", model="target", over="experts")) == 2  # layers
    for ratio in of("imbalance_ratio", over="ranks"):
        assert 1.0 <= ratio <= 2.0


def test_other_routes_answer(server: Server) -> None:
    async def job(client: AsyncOpenAI) -> Any:
        message = {"role": "user", "content": "print("}
        return await client.chat.completions.create(
            model=MODEL_NAME, messages=[message], max_tokens=8, temperature=0
        )

    chat = _with_client(server, job)
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].finish_reason in ("length", "stop")
    assert 0 < chat.usage.completion_tokens <= 8
    assert server.get("/health")[0] == 200
    status, metrics = server.get("/metrics")
    assert status == 200
    assert "vllm:spec_decode_num_accepted_tokens_total" in metrics


def test_a_killed_worker_ends_the_server(server: Server) -> None:
    """With a named error and a bad exit status, for open requests too, and nothing is left behind."""
    victim = server.workers()[1]
    errors = _signal_while_streaming(server, victim)
    assert len(errors) == 4
    assert all(isinstance(error, APIError) for error in errors), errors
    assert server.wait_until_ended(_END_S) == 1
    server.wait_until_nothing_is_left(_END_S)
    output = server.output()
    assert "Worker proc VllmWorker-1 died unexpectedly" in output
    assert "vllm-ascend-ext: error: the engine died" in output


@pytest.mark.slow
@long_table
def test_a_killed_engine_core_ends_the_server(tiny_model: str, tmp_path: Path) -> None:
    with running_server(tiny_model, tmp_path) as server:
        errors = _signal_while_streaming(server, server.engine_core())
        assert all(isinstance(error, APIError) for error in errors), errors
        assert server.wait_until_ended(_END_S) == 1
        server.wait_until_nothing_is_left(_END_S)
        assert "vllm-ascend-ext: error: the engine died" in server.output()


@pytest.mark.slow
def test_a_killed_api_server_ends_the_engine(tiny_model: str, tmp_path: Path) -> None:
    """Upstream leaves the engine core and its workers running for ever."""
    with running_server(tiny_model, tmp_path) as server:
        assert len(server.workers()) == 2
        _signal_while_streaming(server, server.pid)
        assert server.wait_until_ended(_END_S) == -signal.SIGKILL
        server.wait_until_nothing_is_left(_END_S)
        assert f"parent process {server.pid} (MainProcess) has ended; ending EngineCore" in server.output()


@pytest.mark.slow
def test_an_asked_for_end_is_no_failure(tiny_model: str, tmp_path: Path) -> None:
    """SIGTERM in the middle of streams ends them with an error, and the server with exit status 0."""
    with running_server(tiny_model, tmp_path) as server:
        errors = _signal_while_streaming(server, server.pid, signal.SIGTERM)
        assert len(errors) == 4 and all(isinstance(error, APIError) for error in errors), errors
        assert server.wait_until_ended(_END_S) == 0
        server.wait_until_nothing_is_left(_END_S)
        assert "vllm-ascend-ext: error" not in server.output()


def _num_tokens(place: int) -> int:
    return 8 + place * 5 % 17


async def _stream(client: AsyncOpenAI, prompt: str, num_tokens: int) -> Answer:
    """One greedy completion, streamed."""
    text, finish_reason, counted = "", None, 0
    events = await client.completions.create(
        model=MODEL_NAME,
        prompt=prompt,
        max_tokens=num_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for event in events:
        for choice in event.choices:
            assert finish_reason is None, "text after the last event"
            text += choice.text
            finish_reason = choice.finish_reason
        if event.usage is not None:
            counted = event.usage.completion_tokens
    return Answer(text, finish_reason, counted)


def _signal_while_streaming(
    server: Server, pid: int, number: signal.Signals = signal.SIGKILL
) -> list[BaseException | None]:
    """Signals a process in the middle of four long streams; what each of them ended with."""

    async def job(client: AsyncOpenAI) -> list[BaseException | None]:
        flowing = asyncio.Event()

        async def stream() -> None:
            events = await client.completions.create(
                model=MODEL_NAME,
                prompt=PROMPTS[0],
                max_tokens=400,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            async for _ in events:
                flowing.set()

        streams = [asyncio.create_task(stream()) for _ in range(4)]
        await flowing.wait()
        os.kill(pid, number)
        return [
            error if isinstance(error, BaseException) else None
            for error in await asyncio.gather(*streams, return_exceptions=True)
        ]

    return _with_client(server, job)


def _with_client(server: Server, job: Any) -> Any:
    """The result of `job(client)`, within `_ANSWER_S`."""

    async def main() -> Any:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=_ANSWER_S
        ) as client:
            return await asyncio.wait_for(job(client), _ANSWER_S)

    return asyncio.run(main())
