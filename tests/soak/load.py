# SPDX-License-Identifier: Apache-2.0
"""Clients of a served model in the soak: they ask, go away, stop the engine and let it go on, and count."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from openai import APIError, AsyncOpenAI, DefaultAsyncHttpxClient

from tests.soak.questions import Answer, Question, ask, is_right
from tests.support.server import MODEL_NAME, Server

_ANSWER_S = 180.0
# uvicorn closes a connection that nobody has used for 5 s; one that is used just then fails without an answer
_IDLE_S = 2.0
_PAUSE_S = 1.0
_NUM_BENCH_PROMPTS = 40
_CLI = "from vllm.entrypoints.cli.main import main; main()"


@dataclass
class Score:
    """Counts what became of the questions.

    Attributes:
        right: right answers, by the question's kind.
        wrong: descriptions of wrong answers.
        errors: named errors within a moment of a kill, by type.
        unexpected: errors that no kill explains.
        complete: right answers that nobody gave up, with the time of their end.
        orders: other things done to the server, by name.
    """

    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    complete: list[tuple[float, Answer]] = field(default_factory=list)
    orders: Counter[str] = field(default_factory=Counter)


class Load:
    """Keeps clients asking one server until `stop`, or until the server is told to be killed.

    Args:
        questions: to choose from; answers: the right ones.
        num_clients: requests at a time.
        model: folder of the model, for `vllm bench serve`'s tokenizer.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        score: Score,
        *,
        num_clients: int,
        model: str,
        seed: int,
    ) -> None:
        self._asked = list(zip(questions, answers, strict=True))
        self.score, self._num_clients, self._model = score, num_clients, model
        self._rng = random.Random(seed)
        self._going, self._dying, self._end = True, False, asyncio.Event()

    async def run(self, server: Server, seconds: float) -> None:
        """Loads a server for so many seconds, or until `stop`; clients then still get their last answers."""
        self._going, self._dying = True, False
        self._end = asyncio.Event()
        options: dict[str, Any] = {"base_url": f"{server.url}/v1", "max_retries": 0, "timeout": _ANSWER_S}
        options["http_client"] = DefaultAsyncHttpxClient(limits=httpx.Limits(keepalive_expiry=_IDLE_S))
        async with AsyncOpenAI(api_key="none", **options) as client:
            tasks = [asyncio.create_task(self._client(client)) for _ in range(self._num_clients)]
            tasks.append(asyncio.create_task(self._orders(client)))
            tasks.append(asyncio.create_task(self._bench(server)))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), seconds)
            self._going = False
            await asyncio.gather(*tasks)

    def stop(self) -> None:
        """Lets the clients have their last answers."""
        self._end.set()

    def expect_errors(self) -> None:
        """Notes that the server is being killed: errors are right from now on, answers still have to be."""
        self._dying = True

    async def _client(self, client: AsyncOpenAI) -> None:
        while self._going:
            question, right = self._rng.choice(self._asked)
            try:
                answer = await ask(client, question)
            except APIError as error:
                self._note(error)
                await asyncio.sleep(_PAUSE_S)
                continue
            if not is_right(question, answer, right):
                self.score.wrong.append(f"{question}: {answer}, not {right}")
                continue
            self.score.right[question.kind] += 1
            if not question.give_up_at:
                whole = right.token_ids + right.beyond
                answer = replace(answer, beyond=whole[len(answer.token_ids) :])
                self.score.complete.append((time.monotonic(), answer))

    async def _orders(self, client: AsyncOpenAI) -> None:
        """Pauses and resumes generation, and forgets the prefix cache, with and without what runs."""
        while self._going:
            await self._rest(self._rng.uniform(3, 9))
            order = self._rng.choice(("pause", "reset", "preempt"))
            try:
                if order == "reset":
                    await client.post("../reset_prefix_cache", cast_to=object)
                else:
                    await self._pause(client, preempt=order == "preempt")
                self.score.orders[order] += 1
            except APIError as error:
                self._note(error)

    async def _pause(self, client: AsyncOpenAI, *, preempt: bool) -> None:
        """Pauses for a moment, in which all that runs may be preempted."""
        await client.post("../pause?mode=keep", cast_to=object)
        try:
            if preempt:
                await client.post("../reset_prefix_cache?reset_running_requests=true", cast_to=object)
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        finally:
            await client.post("../resume", cast_to=object)

    async def _bench(self, server: Server) -> None:
        """Runs vLLM's own client now and then; its requests have no right answers, but all must be served."""
        while self._going:
            await self._rest(self._rng.uniform(10, 40))
            if not self._going:
                return
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CLI, "bench", "serve", "--backend", "openai", "--model", self._model),
                *("--served-model-name", MODEL_NAME, "--base-url", server.url, "--dataset-name", "random"),
                *("--random-input-len", "24", "--random-output-len", "24", "--request-rate", "8"),
                *("--num-prompts", str(_NUM_BENCH_PROMPTS), "--disable-tqdm"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said = asyncio.create_task(process.communicate())
            ends = asyncio.create_task(self._end.wait())
            await asyncio.wait({said, ends}, return_when=asyncio.FIRST_COMPLETED)
            if self._dying:  # it would wait for the server for minutes
                with suppress(ProcessLookupError):
                    process.kill()
            ends.cancel()
            out, _ = await said
            if f"Successful requests: {_NUM_BENCH_PROMPTS} " in " ".join(out.decode().split()) + " ":
                self.score.orders["bench"] += 1
            elif not self._dying:
                self.score.unexpected.append(f"vllm bench serve: {out.decode()[-2000:]}")

    async def _rest(self, seconds: float) -> None:
        """Waits so long, or until the load ends."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._end.wait(), seconds)

    def _note(self, error: APIError) -> None:
        """Takes an error: while the server dies each is right that says what it is."""
        said = f"{type(error).__name__}: {error} ({error.__cause__!r})"
        if self._dying and str(error).strip():
            self.score.errors[type(error).__name__] += 1
        else:
            self.score.unexpected.append(said)
