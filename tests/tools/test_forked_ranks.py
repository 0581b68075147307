# SPDX-License-Identifier: Apache-2.0
"""The forked-rank launcher: results in order, and a rank that raises, dies or hangs is named."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, RankError, run_ranks

pytestmark = pytest.mark.distributed


def test_results_come_in_rank_order_with_positions() -> None:
    def job(rank: Rank) -> tuple[int, int, int]:
        time.sleep(0.1 * (3 - rank.rank))
        return rank.rank, rank.tp_rank, rank.dp_rank

    assert run_ranks(job, Layout(tp=2, dp=2), deadline_s=60) == [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]


def test_events_arrive_while_the_job_runs() -> None:
    seen: list[tuple[int, Any]] = []

    def job(rank: Rank) -> None:
        for value in range(3):
            rank.emit((rank.rank, value))

    run_ranks(job, Layout(tp=2), deadline_s=60, on_event=lambda rank, value: seen.append((rank, value)))
    assert sorted(seen) == [(rank, (rank, value)) for rank in range(2) for value in range(3)]


def test_environment_reaches_the_ranks_and_not_the_parent() -> None:
    def job(rank: Rank) -> str:
        return f"{os.environ['RANK']} {os.environ['WORLD_SIZE']} {os.environ['EXTRA']}"

    assert run_ranks(job, Layout(tp=2), deadline_s=60, environment={"EXTRA": "x"}) == ["0 2 x", "1 2 x"]
    assert "EXTRA" not in os.environ


@pytest.mark.emulator
@pytest.mark.engine  # before this process uses a device
def test_a_rank_ends_with_nothing_left_on_its_device() -> None:
    """Its part of a collective may be queued behind other work, and the other rank waits for it."""

    def job(rank: Rank) -> None:
        import torch
        import torch.distributed as dist

        torch.npu.set_device(rank.rank)
        dist.init_process_group("hccl")
        ones = torch.ones(1, device="npu")
        dist.all_reduce(ones)
        if rank.rank == 0:
            torch.npu._sleep(2_000_000_000)  # nanoseconds on the emulator
        dist.all_reduce(ones)
        if rank.rank == 1:
            assert ones.item() == 4

    run_ranks(job, Layout(tp=2), deadline_s=60)


def test_an_exception_names_the_rank_and_shows_its_output() -> None:
    def job(rank: Rank) -> None:
        if rank.rank == 1:
            print("about to fail")
            raise KeyError("missing")
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(RankError, match=r"rank 1: KeyError: 'missing'(.|\n)*about to fail"):
        run_ranks(job, Layout(tp=2), deadline_s=30)
    assert time.monotonic() - started < 25  # the sleeping rank was ended


def test_a_killed_rank_is_named() -> None:
    def job(rank: Rank) -> None:
        if rank.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(RankError, match="rank 0 died with exit code -9"):
        run_ranks(job, Layout(tp=2), deadline_s=30)


def test_a_stuck_rank_is_named_with_its_stack() -> None:
    def stuck_in_here() -> None:
        time.sleep(60)

    def job(rank: Rank) -> None:
        if rank.rank == 1:
            stuck_in_here()

    with pytest.raises(RankError, match=r"rank 1 still running after 2 s(.|\n)*stuck_in_here"):
        run_ranks(job, Layout(tp=2), deadline_s=2)


def test_no_process_is_left_behind() -> None:
    pids: list[int] = []

    def job(rank: Rank) -> None:
        rank.emit(os.getpid())
        time.sleep(60)

    with pytest.raises(RankError):
        run_ranks(job, Layout(tp=2), deadline_s=2, on_event=lambda rank, pid: pids.append(pid))
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("on_sigterm", [signal.SIG_DFL, signal.SIG_IGN], ids=["ends", "ignores SIGTERM"])
def test_no_shared_memory_is_left_behind_by_a_rank_that_fails_beside_its_worker(
    tmp_path: Path, on_sigterm: signal.Handlers
) -> None:
    def job(rank: Rank) -> None:
        memory = SharedMemory(create=True, size=16)
        (tmp_path / "name").write_text(memory.name)
        if os.fork() == 0:  # holds the resource tracker's pipe, as an engine's workers do
            signal.signal(signal.SIGTERM, on_sigterm)
            time.sleep(60)
            os._exit(0)
        raise KeyError("missing")

    with pytest.raises(RankError, match="missing"):
        run_ranks(job, Layout(), deadline_s=30)
    assert not Path("/dev/shm", (tmp_path / "name").read_text()).exists()


@pytest.mark.parametrize(("tp", "dp"), [(0, 1), (1, 0), (-1, 1)])
def test_empty_layouts_are_refused(tp: int, dp: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Layout(tp, dp)


def test_no_file_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """vLLM binds sockets in VLLM_RPC_BASE_PATH and ranks exit without closing them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def job(rank: Rank) -> bool:
        (Path(os.environ["VLLM_RPC_BASE_PATH"]) / str(rank.rank)).touch()
        return True

    assert run_ranks(job, Layout(tp=2), deadline_s=60) == [True, True]
    assert list(tmp_path.iterdir()) == []
