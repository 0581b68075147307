# SPDX-License-Identifier: Apache-2.0
"""Runs a function in several real processes that form a Gloo group."""

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., Any], num_ranks: int, *args: Any, deadline_s: float = 120) -> list[Any]:
    """Calls ``function(rank, *args)`` in `num_ranks` processes, with the default process group set up.

    `function` is at the top level of its module and returns something picklable.

    Returns:
        What each rank returned; None for one that left with ``os._exit(0)``.

    Raises:
        AssertionError: a rank raised (with its traceback), or did not end within `deadline_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        context = mp.get_context("fork")  # no new import of torch; conftest.py keeps OpenMP threads away
        processes = [
            context.Process(target=_rank_main, args=(function, rank, num_ranks, folder, args), daemon=True)
            for rank in range(num_ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(deadline_s)
        hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for rank in hanging:
            processes[rank].kill()
            processes[rank].join()
        outcomes = [_outcome(Path(folder, f"result{rank}")) for rank in range(num_ranks)]
        failures = [f"rank {rank}:\n{text}" for rank, (_, text) in enumerate(outcomes) if text]
        failures += [f"rank {rank} did not end within {deadline_s} s" for rank in hanging]
        failures += [
            f"rank {rank} left with exit code {process.exitcode}"
            for rank, process in enumerate(processes)
            if process.exitcode and not outcomes[rank][1] and rank not in hanging
        ]
        assert not failures, "\n".join(failures)
        return [value for value, _ in outcomes]


def _outcome(path: Path) -> tuple[Any, str | None]:
    if not path.exists():
        return None, None
    value, text = pickle.loads(path.read_bytes())
    return value, text


def _rank_main(function: Callable[..., Any], rank: int, num_ranks: int, folder: str, args: Any) -> None:
    torch.set_num_threads(1)
    value, text = None, None
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=60),
        )
        value = function(rank, *args)
    except BaseException:
        text = traceback.format_exc()
    result = Path(folder, f"result{rank}")
    result.with_suffix(".part").write_bytes(pickle.dumps((value, text)))
    result.with_suffix(".part").rename(result)
    os._exit(1 if text else 0)  # no tear-down: a broken group would wait in it
