# SPDX-License-Identifier: Apache-2.0
"""Replicas that keep step pass by pass and commit ahead, as vLLM's engine cores do: what can go wrong is here."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from vllm_ascend_ext.dp_gather.commitment import OPEN, Admission, Commitment, bounds, check, commit, decode, encode

MAX_RUNNING = 4
ROW_LIMIT = 24


class DisagreementError(AssertionError):
    """Replicas plan one pass differently: in an engine they wait for each other in different collectives."""


@dataclass
class Request:
    """Holds a request. prompt: rows not yet scheduled; left: passes that it decodes; held: passes that it was not
    admitted to only because of a commitment, since it waits."""

    prompt: int
    left: int
    held: int = 0
    length: int = 0


@dataclass
class Replica:
    """Simulates one engine core and its scheduler.

    late: passes by which the scheduler learns late that a request has stopped (asynchronous scheduling).
    """

    chance: random.Random
    decode_rows: int
    late: int
    admission: Admission = field(default_factory=Admission)
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    longest_hold: int = 0

    def next_pass(self) -> tuple[int, int, Commitment]:
        """Returns rows, rows of later drafts, and what the pass carries: of a dummy, if there is nothing to do."""
        rows, num_reqs = self.schedule()
        if rows:
            return rows, num_reqs, self.decide()
        return self.decode_rows, self.decode_rows, self.decide()

    def schedule(self) -> tuple[int, int]:
        """Returns rows and requests of a pass; without rows it is none."""
        holds, budget, num_reqs = self.admission.holds, ROW_LIMIT, 0
        is_preempting = len(self.running) > 1 and self.chance.random() < 0.05
        if is_preempting:
            victim = self.running.pop()
            victim.prompt, victim.held = victim.length, 0
            self.waiting.insert(0, victim)
        for request in self.running:
            rows = self._rows(request, budget)
            budget, num_reqs = budget - rows, num_reqs + (rows > 0)
        while self.waiting and budget and not is_preempting and len(self.running) < MAX_RUNNING:
            if holds:
                for request in self.waiting:
                    request.held += 1
                    self.longest_hold = max(self.longest_hold, request.held)
                break
            request = self.waiting.pop(0)
            self.running.append(request)
            budget, num_reqs = budget - self._rows(request, budget), num_reqs + 1
        return ROW_LIMIT - budget, num_reqs

    def _rows(self, request: Request, budget: int) -> int:
        """Returns what a request has in the next pass; near its end fewer, and none when it has stopped
        unnoticed."""
        if request.prompt:
            rows = min(request.prompt, budget)
            request.prompt -= rows
            request.length += rows
            return rows
        if request.left <= 0 and self.chance.random() < 0.5:
            return 0
        return min(self.chance.randint(1, self.decode_rows) if request.left < 2 else self.decode_rows, budget)

    def decide(self) -> Commitment:
        """Notes that a pass will run."""
        carried = commit(
            num_waiting=len(self.waiting),
            all_decode=not any(request.prompt for request in self.running),
            num_running=len(self.running),
            decode_rows=self.decode_rows,
            row_limit=ROW_LIMIT,
        )
        self.admission.pass_decided(carried)
        return carried

    def pass_ends(self) -> None:
        """Lets requests stop, or gives them up."""
        for request in self.running:
            request.left -= not request.prompt
            if self.chance.random() < 0.02:
                request.left = -self.late
        self.running = [request for request in self.running if request.prompt or request.left > -self.late]


@dataclass
class World:
    """Simulates all replicas; `arrivals` is how likely a request comes to each before a pass."""

    seed: int
    num_replicas: int = 3
    decode_rows: int = 2
    late: int = 0
    arrivals: float = 0.2
    replica_class: type[Replica] = Replica
    num_ahead: int = 0
    num_asked: int = 0
    num_waves: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.replicas = [
            self.replica_class(self.chance, self.decode_rows, self.late) for _ in range(self.num_replicas)
        ]
        self.gathered: tuple[Commitment, ...] = ()

    def run(self, num_passes: int) -> None:
        """Passes in waves: after eight without a request all rest, until one arrives."""
        idle = 0
        for _ in range(num_passes):
            self._arrive(self.arrivals)
            self._pass()
            idle = 0 if any(replica.running or replica.waiting for replica in self.replicas) else idle + 1
            if idle == 8:
                idle = self._rest()

    def decide(self, replica: int) -> tuple[Commitment, ...] | None:
        """Returns what one replica plans the pass by."""
        return bounds(self.gathered)

    def _arrive(self, chance: float) -> None:
        for replica in self.replicas:
            if self.chance.random() < chance:
                prompt = self.chance.choice([1, 3, 60])
                replica.waiting.append(Request(prompt, self.chance.randint(1, 12)))

    def _rest(self) -> int:
        """Rests for a pass; a scheduler may still be asked, to flush what has finished."""
        self.num_waves += 1
        for replica in self.replicas:
            if self.chance.random() < 0.5:
                assert replica.schedule() == (0, 0)
        self._arrive(0.5)
        return 0

    def _pass(self) -> None:
        passes = [replica.next_pass() for replica in self.replicas]
        plans = [self.decide(index) for index in range(self.num_replicas)]
        if any(plan != plans[0] for plan in plans):
            raise DisagreementError(f"{plans}")
        self.num_ahead += plans[0] is not None
        self.num_asked += plans[0] is None
        for index, (rows, num_reqs, _) in enumerate(passes):
            if plans[0] is not None:
                check(rows, plans[0][index].max_rows, index)
                check(num_reqs, plans[0][index].max_draft_rows, index)
        vectors = [encode(carried, index, self.num_replicas) for index, (_, _, carried) in enumerate(passes)]
        self.gathered = decode([sum(column) for column in zip(*vectors, strict=True)])
        for replica in self.replicas:
            replica.pass_ends()


class Hasty(Replica):
    """Plants a bug: admits while a commitment is in force."""

    def schedule(self) -> tuple[int, int]:
        self.admission.pass_decided(OPEN)
        return super().schedule()


class Forgetful(Replica):
    """Plants a bug: its commitment ends with the next schedule, though that was no pass."""

    def schedule(self) -> tuple[int, int]:
        rows, num_reqs = super().schedule()
        if not rows:
            self.admission.pass_decided(OPEN)
        return rows, num_reqs


class Selfish(World):
    """Plants a bug: a replica that has committed plans by that, whatever the others did."""

    def decide(self, replica: int) -> tuple[Commitment, ...] | None:
        if not self.gathered or self.gathered[replica].is_open:
            return None
        return self.gathered
