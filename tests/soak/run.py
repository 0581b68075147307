# SPDX-License-Identifier: Apache-2.0
"""Runs a server under mixed load, kills its readers, workers and API servers at random, and starts it again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from openai import AsyncOpenAI

from tests.soak.frames import Told, differences, read_lines
from tests.soak.load import Load, Score
from tests.soak.questions import Answer, Question, answers_alone, make_questions
from tests.soak.readers import Readers
from tests.soak.watch import Growth, Watch, name_of
from tests.support.saved_output import next_instance
from tests.support.server import SHARED_MEMORY, Server

NUM_REPLICAS = 2
_START_S, _END_S = 600.0, 90.0
_NUM_QUESTIONS, _NUM_CLIENTS = 48, 12
_LEAST_LIFE_S = 45.0  # of a server
_CUT_S = 2.0  # before a kill, in which an answer's last frames may be lost with the worker
_PLAIN = ("--dtype", "float32", "--block-size", "16")
_TAIL = 8000  # characters of the output of a server that has ended by itself
_NAMED = "vllm-ascend-ext: error: this server has stopped: "  # and which API servers have ended


@dataclass
class Summary:
    """Sums up a soak. wrong, unexpected, problems and left must be empty."""

    seconds: float = 0.0
    score: Score = field(default_factory=Score)
    kills: Counter[str] = field(default_factory=Counter)
    growths: list[Growth] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_frames: int = 0
    num_again: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Returns everything that should not have been."""
        return [*self.score.wrong, *self.score.unexpected, *self.problems, *self.left]

    def __str__(self) -> str:
        score = self.score
        lines = [
            f"{self.seconds / 60:.1f} min; right answers: {score.right.total()} {dict(score.right)}",
            f"other orders: {dict(score.orders)}",
            f"SIGKILL: {dict(self.kills)}; named errors while a server died: {dict(score.errors)}",
            f"wrong answers: {len(score.wrong)}; errors that no kill explains: {len(score.unexpected)}",
            f"frames: {self.num_frames}, again after a reader's death: {self.num_again}; other problems: "
            f"{len(self.problems)}; left behind: {self.left or 'nothing'}",
            *map(str, self.growths),
        ]
        return "\n".join(lines)


class Soak:
    """Serves for `minutes`; a server's life is `mean_life_s` on average."""

    def __init__(self, model: str, folder: Path, *, minutes: float, mean_life_s: float, seed: int) -> None:
        self._model, self._folder = model, folder
        self._seconds, self._mean_life_s = minutes * 60, mean_life_s
        self._rng = random.Random(seed)
        self._instance = next_instance()
        self._kill_times: list[float] = []
        self.summary = Summary()

    def run(self) -> Summary:
        """Returns the summary; raises ServerError where a server does not start or end as it should."""
        begin, before = time.monotonic(), set(os.listdir(SHARED_MEMORY))
        questions = make_questions(_NUM_QUESTIONS, self._rng.randrange(2**31))
        answers = self._right_answers(questions)
        seed = self._rng.randrange(2**31)
        load = Load(questions, answers, self.summary.score, num_clients=_NUM_CLIENTS, model=self._model, seed=seed)
        readers = Readers(self._instance, NUM_REPLICAS, self._folder, self._rng, self.summary.problems)
        try:
            end, number = time.monotonic() + self._seconds, 0
            while time.monotonic() < end:
                life = max(self._rng.expovariate(1 / self._mean_life_s), _LEAST_LIFE_S)
                is_last = time.monotonic() + life + _LEAST_LIFE_S > end
                life = max(end - time.monotonic(), _LEAST_LIFE_S) if is_last else life
                asyncio.run(self._serve(number, load, readers, life, ends_well=is_last))
                number += 1
                if is_last:
                    break
            readers.wait()
        finally:
            readers.kill()
        self._hold_frames_against_answers(readers, number)
        self.summary.left = [name for name in set(os.listdir(SHARED_MEMORY)) - before if "ascend_ext" in name]
        self.summary.seconds = time.monotonic() - begin
        (self._folder / "faults.txt").write_text("\n".join(self.summary.faults))
        return self.summary

    def _right_answers(self, questions: list[Question]) -> list[Answer]:
        """Returns what a server without our features, drafts and replicas answers."""
        server = Server(Path(self._model), _PLAIN, self._folder_of("plain"))

        async def job() -> list[Answer]:
            async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                return await answers_alone(client, questions)

        try:
            server.wait_until_healthy(_START_S)
            return asyncio.run(job())
        finally:
            server.stop()

    async def _serve(self, number: int, load: Load, readers: Readers, life_s: float, *, ends_well: bool) -> None:
        """Lives one server's life, from its start to a kill, or to an end that is asked for."""
        environment = {"VLLM_SERVER_DEV_MODE": "1"}
        server = Server(Path(self._model), self._arguments(), self._folder_of(f"server-{number}"), environment)
        try:
            await asyncio.to_thread(server.wait_until_healthy, _START_S)
            readers.come_back()
            watch = Watch(server)
            killing = asyncio.create_task(readers.kill_at_random(self.summary.kills))
            loading = asyncio.create_task(load.run(server, life_s + _END_S))
            done, _ = await asyncio.wait([loading], timeout=life_s)
            victim = None if ends_well or done else self._kill(server, load)
            load.stop()
            await asyncio.wait_for(loading, 4 * _END_S)
            killing.cancel()
            self.summary.growths += watch.finish()
            await asyncio.to_thread(self._see_it_end, server, victim)
        finally:
            server.stop()

    def _kill(self, server: Server, load: Load) -> str:
        """Kills a worker or an API server; returns its name, or "nothing" where the server has ended by itself."""
        named = [(name_of(process), process) for process in server.processes()]
        kind = self._rng.choice(("Worker", "APIServer"))
        victims = [(name, process) for name, process in named if name.startswith(kind)]
        if not victims:
            self.summary.problems.append(f"a server ended by itself: {server.output()[-_TAIL:]}")
            return "nothing"
        name, process = self._rng.choice(victims)
        load.expect_errors()
        self._kill_times.append(time.monotonic())
        process.send_signal(signal.SIGKILL)
        self.summary.kills[kind] += 1
        return name

    def _see_it_end(self, server: Server, victim: str | None) -> None:
        """Sees that the server ends: with its error where it lost a process, else as it is told to."""
        if victim is None:
            os.kill(server.pid, signal.SIGTERM)
        status = server.wait_until_ended(_END_S)
        if status != (0 if victim is None else 1):
            self.summary.problems.append(f"a server without {victim} ended with status {status}")
        if victim is not None and _NAMED not in server.output():
            self.summary.problems.append(f"a server that lost {victim} does not say so")
        ours = {name for name in server.left_in_shared_memory() if not (victim and "ascend_ext" in name)}
        end = time.monotonic() + _END_S
        while (server.processes() or ours & server.left_in_shared_memory()) and time.monotonic() < end:
            time.sleep(0.5)
        left = [f"process {process.name()}" for process in server.processes()]
        left += sorted(ours & server.left_in_shared_memory())
        if left:
            self.summary.problems.append(f"a server that lost {victim} left {left}")

    def _hold_frames_against_answers(self, readers: Readers, num_servers: int) -> None:
        told = Told()
        for replica in range(NUM_REPLICAS):
            with readers.frames_of(replica).open() as lines:
                read_lines(lines, replica, told)
        complete = self.summary.score.complete
        cut = {
            answer.request_id
            for at, answer in complete
            if any(killed - _CUT_S < at for killed in self._kill_times if at < killed + _END_S)
        }
        answers = [answer for _, answer in complete]
        if any(count > num_servers for count in told.num_writers.values()):
            self.summary.problems.append(f"frames began anew more often than a server: {told.num_writers}")
        self.summary.problems += told.problems + differences(answers, told, cut=frozenset(cut))
        self.summary.num_frames, self.summary.num_again = told.num_frames, told.num_again

    def _arguments(self) -> tuple[str, ...]:
        features = {
            "eplb_load": {"enabled": True, "interval": 10},
            "dp_gather": {"enabled": True, "deadline_s": 60},
            "mtp_output": {"enabled": True, "instance": self._instance, "deadline_s": 120},
        }
        return (
            *_PLAIN,
            *("--data-parallel-size", str(NUM_REPLICAS), "--enable-expert-parallel"),
            *("--distributed-executor-backend", "mp", "--num-gpu-blocks-override", "72"),
            *("--speculative-config", json.dumps({"method": "mtp", "num_speculative_tokens": 2})),
            *("--additional-config", json.dumps({"ascend_ext": features})),
        )

    def _folder_of(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder
