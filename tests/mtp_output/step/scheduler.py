# SPDX-License-Identifier: Apache-2.0
"""Simulates a scheduler that runs ahead of its device: what it launches, what the host knows when; FastDeploy's
old bound.

The device decides how many tokens a request has in the next launch: 1 and its drafts, of which there are fewer
near the end of a request, and one in the first step after a prefill elsewhere. The host hears of a launch's
outcome up to `MAX_LAG` launches later.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from vllm_ascend_ext.mtp_output.step.launch_bound import LaunchBound

MAX_LAG = 2


@dataclass
class _Request:
    """Holds a request. chunks: of its prompt, not yet launched; left: tokens until it stops; first: inserted, not
    yet launched."""

    chunks: list[int]
    left: int
    first: bool = False
    stopped: bool = False
    blocked: bool = False


@dataclass
class Simulation:
    """Simulates one replica with random events. Raises LaunchBoundError when the bound is not kept."""

    seed: int
    num_speculative_tokens: int
    num_exact: int = 0
    num_steady: int = 0
    old_failures: int = 0
    _requests: dict[str, _Request] = field(default_factory=dict)
    _arriving: list[tuple[int, int, dict[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._bound = LaunchBound(self.num_speculative_tokens)
        self._names = iter(range(10**9))
        self._last_lens: dict[str, int] = {}
        self._last_has_prompt = True
        self._is_quiet = False

    def run(self, num_launches: int) -> None:
        for launch in range(1, num_launches + 1):
            self._is_quiet = self._random.random() < 0.5
            if not self._is_quiet:
                for _ in range(self._random.randint(0, 3)):
                    self._event()
            self._counts(launch)
            self._launch(launch)

    def _event(self) -> None:
        names = list(self._requests)
        kind = self._random.choice(["prefill", "prefill", "insert", "insert", "preempt", "finish", "reset"])
        if kind in ("prefill", "insert"):
            name = str(next(self._names))
            chunks = [self._random.randint(1, 40) for _ in range(self._random.randint(1, 3))]
            left = self._random.randint(1, 30)
            self._requests[name] = _Request(chunks if kind == "prefill" else [], left, first=kind == "insert")
            if kind == "insert":
                self._bound.insert(name)
        elif kind == "reset" and self._random.random() < 0.1:
            self._requests.clear()
            self._bound.reset()
        elif names and kind in ("preempt", "finish"):
            name = self._random.choice(names)
            request = self._requests[name]
            if kind == "finish" or request.stopped:
                del self._requests[name]
                self._bound.finish(name)
            elif not request.blocked:
                request.blocked = True
                self._bound.preempt(name)

    def _counts(self, launch: int) -> None:
        """Tells what has arrived, in the order of the launches; requests shown stopped leave the host, too."""
        while self._arriving and self._arriving[0][0] <= launch:
            _, step, counts = self._arriving.pop(0)
            self._bound.counts_arrived(step, counts)
            for name, count in counts.items():
                if count == 0:
                    self._requests.pop(name, None)

    def _launch(self, launch: int) -> None:
        lens: dict[str, int] = {}
        has_prompt = False
        for name, request in self._requests.items():
            if request.blocked:
                if self._is_quiet or self._random.random() < 0.5:
                    continue
                request.blocked = False
                self._resume(name, request)
            if request.chunks:
                has_prompt = True
                lens[name] = request.chunks.pop(0)
                self._bound.prefill(name, lens[name], is_last=not request.chunks)
            elif not request.stopped:
                drafts = 1 if request.first else self.num_speculative_tokens
                lens[name] = 1 + min(drafts, self.num_speculative_tokens, request.left - 1)
                request.first = False
        actual = sum(lens.values())
        self._compare_old(lens, has_prompt)
        bound = self._bound.check(actual)
        steady = self._is_quiet and not has_prompt and all(len_ == self._full for len_ in lens.values())
        if steady and all(not request.stopped for request in self._requests.values()):
            self.num_steady += 1
            self.num_exact += bound == actual
        self._last_lens, self._last_has_prompt = lens, has_prompt
        self._device(launch, lens)

    @property
    def _full(self) -> int:
        return self.num_speculative_tokens + 1

    def _resume(self, name: str, request: _Request) -> None:
        """Resumes a request with its cache, or from its prompt."""
        if not request.chunks and self._random.random() < 0.5:
            request.chunks = [self._random.randint(1, 60)]
        if not request.chunks:
            self._bound.resume(name)

    def _compare_old(self, lens: dict[str, int], has_prompt: bool) -> None:
        """Compares with `Σ lens + Σ blocked · (k + 1)` of the launch before. That bound says nothing of prompts
        and of who joins."""
        if self._last_has_prompt or has_prompt or not set(lens) <= set(self._last_lens):
            return
        blocked = sum(request.blocked for request in self._requests.values())
        old = sum(self._last_lens.values()) + blocked * self._full
        self.old_failures += sum(lens.values()) > old

    def _device(self, launch: int, lens: dict[str, int]) -> None:
        """Accepts some drafts; the counts of the launch arrive later."""
        counts: dict[str, int] = {}
        for name, num_tokens in lens.items():
            request = self._requests[name]
            if request.chunks:
                counts[name] = 1
                continue
            accepted = 1 if num_tokens > self._full else self._random.randint(1, max(num_tokens, 1))
            request.left -= accepted
            request.stopped = request.left <= 0
            counts[name] = 0 if request.stopped else 1
        due = max([launch + self._random.randint(1, MAX_LAG), *(when for when, _, _ in self._arriving[-1:])])
        self._arriving.append((due, launch, counts))
