# SPDX-License-Identifier: Apache-2.0
"""Runs engines in forked ranks: vLLM is imported once, each rank of each engine is a fork of that process.

An engine of two ranks then starts in seconds where vLLM's own launcher, which imports vLLM in every process,
takes most of a minute. Ranks find each other as torchrun's do (`external_launcher`, one rank a process), and the
parent waits with a deadline: a dead or stuck rank ends the others and raises an error that names it.

The parent must not have used OpenMP threads (a fork would inherit a pool without its threads), so run it with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from vllm_ascend_ext import envs

Job = Callable[["Rank"], Any]
_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class RankError(RuntimeError):
    """Reports a rank that raised, died or missed the deadline; the message names it and ends with its last
    output."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Tells a job where its rank stands, and takes what it reports while it runs."""

    rank: int
    tp_rank: int
    dp_rank: int
    dp_size: int
    emit: Callable[[Any], None]
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Lays out the ranks of one engine: replicas, in each its pipeline stages, in each its TP ranks."""

    tp: int = 1
    dp: int = 1
    pp: int = 1

    def __post_init__(self) -> None:
        if min(self.tp, self.dp, self.pp) < 1:
            raise ValueError(f"tp, dp and pp must be at least 1, got tp={self.tp} dp={self.dp} pp={self.pp}")

    @property
    def num_ranks(self) -> int:
        return self.tp * self.pp * self.dp


@dataclass(slots=True)
class _Child:
    rank: int
    process: Any
    pipe: Connection
    log: Path
    result: Any = None
    done: bool = field(default=False)


def run_ranks(
    job: Job,
    layout: Layout,
    *,
    deadline_s: float,
    environment: Mapping[str, str] | None = None,
    on_event: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Runs `job(rank)` in one forked process a rank and returns the results in rank order.

    on_event(rank, value) receives what jobs `emit` while they run. Raises RankError when a rank raises, dies or
    is still running after `deadline_s` seconds; all other ranks are then ended.
    """
    context = multiprocessing.get_context("fork")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="ascend-ext-ranks-") as folder:
        children: list[_Child] = []
        try:
            for rank in range(layout.num_ranks):
                ours, theirs = context.Pipe(duplex=False)
                log = Path(folder) / f"rank{rank}.log"
                process = context.Process(
                    target=_rank_main, args=(job, rank, layout, port, dict(environment or {}), theirs, log)
                )
                process.start()
                theirs.close()
                children.append(_Child(rank, process, ours, log))
            _collect(children, time.monotonic() + deadline_s, deadline_s, on_event)
        finally:
            _end(children)
        return [child.result for child in children]


def _collect(
    children: list[_Child],
    end: float,
    deadline_s: float,
    on_event: Callable[[int, Any], None] | None,
) -> None:
    """Reads the pipes until every rank has sent its result."""
    running = {child.pipe: child for child in children}
    while running:
        ready = wait(list(running), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            stuck = sorted(running.values(), key=lambda child: child.rank)
            for silent in stuck:
                _signal(silent, signal.SIGUSR1)  # faulthandler writes the stacks into the log
            time.sleep(0.5)
            names = ", ".join(str(silent.rank) for silent in stuck)
            raise RankError(f"rank {names} still running after {deadline_s:g} s\n{_tail(stuck[0].log)}")
        for pipe in ready:
            child: _Child = running[pipe]  # type: ignore[index]
            try:
                kind, value = child.pipe.recv()
            except EOFError:
                child.process.join(5)
                raise RankError(
                    f"rank {child.rank} died with exit code {child.process.exitcode}\n{_tail(child.log)}"
                ) from None
            if kind == "event":
                if on_event is not None:
                    on_event(child.rank, value)
            elif kind == "error":
                raise RankError(f"rank {child.rank}: {value}\n{_tail(child.log)}")
            else:
                child.result = value
                child.done = True
                del running[pipe]  # type: ignore[arg-type]


def _end(children: list[_Child]) -> None:
    """Leaves no process and no shared memory behind.

    Finished ranks get a moment to exit, the others are killed. A rank's resource tracker outlives it to unlink the
    rank's shared memory, once all others that have its pipe have ended: they are asked to, then killed, and only
    then is the tracker.
    """
    for child in children:
        child.process.join(5 if child.done else 0)
        if child.process.exitcode is None:
            child.process.kill()
    for child in children:
        child.process.join(5)
        for end_workers in (_wait, _terminate, _kill_all_but_trackers):
            end_workers(child)
            end = time.monotonic() + 2
            while _is_running(child) and time.monotonic() < end:
                time.sleep(0.02)
        _signal(child, signal.SIGKILL)
        child.pipe.close()


def _wait(child: _Child) -> None:
    """Does nothing: the processes may be about to end."""


def _terminate(child: _Child) -> None:
    """Sends SIGTERM; the resource tracker ignores that, and so do the servers of multiprocessing's managers."""
    _signal(child, signal.SIGTERM)


def _kill_all_but_trackers(child: _Child) -> None:
    for process in _running(child):
        with contextlib.suppress(OSError):  # it has ended
            if b"multiprocessing.resource_tracker" not in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def _is_running(child: _Child) -> bool:
    return _signal(child, 0) and any(_running(child))


def _running(child: _Child) -> Iterator[Path]:
    """Yields the folders of the processes of a rank's group that run. One that has ended may stay in the group for
    seconds, until the first process of the machine, which has inherited it, asks for its status."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == child.process.pid and state not in "ZX":
                yield process


def _signal(child: _Child, number: int) -> bool:
    """Signals a rank's process group, or the rank before it has one; False when nothing is left."""
    for send in (os.killpg, os.kill):
        try:
            send(child.process.pid, number)
            return True
        except ProcessLookupError:
            if child.process.exitcode is not None:
                return False
    return False


def _tail(log: Path) -> str:
    """Returns the last lines of a rank's output; of a dump of its stacks, the first ones (innermost frames)."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    dump = next((i for i, line in enumerate(lines) if line.startswith(("Current thread", "Thread 0x"))), None)
    shown = lines[-_TAIL_LINES:] if dump is None else lines[dump : dump + _TAIL_LINES]
    return "\n".join(f"  | {line}" for line in shown)


def _rank_main(
    job: Job, rank: int, layout: Layout, port: int, environment: dict[str, str], pipe: Connection, log: Path
) -> None:
    """Runs the body of a rank: own process group, output into `log`, result or error through `pipe`, hard exit."""
    os.setsid()
    _end_with_parent()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)  # the parent's may be redirected objects
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    envs.export(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(layout.num_ranks),
            "LOCAL_WORLD_SIZE": str(layout.num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_RPC_BASE_PATH": str(log.parent),  # its sockets go with the folder; ranks exit without clean-up
            **environment,
        }
    )
    import torch

    torch.set_num_threads(1)
    status = 0
    try:
        facts = Rank(
            rank=rank,
            tp_rank=rank % layout.tp,
            stage=rank // layout.tp % layout.pp,
            dp_rank=rank // (layout.tp * layout.pp),
            dp_size=layout.dp,
            emit=lambda value: pipe.send(("event", value)),
        )
        result = job(facts)
        _drain()
        pipe.send(("result", result))
    except BaseException as error:  # noqa: B036 - a rank reports everything, also SystemExit
        traceback.print_exc()
        pipe.send(("error", f"{type(error).__name__}: {error}"))
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _drain() -> None:
    """Waits for what this rank has still queued on its device: other ranks may need its part of a collective."""
    import torch

    device = torch.get_device_module()
    if device.is_initialized():
        device.synchronize()


def _end_with_parent() -> None:
    """Lets the kernel kill this rank when the process that forked it dies, however it dies (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
