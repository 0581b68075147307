# SPDX-License-Identifier: Apache-2.0
"""Moves device memory between two processes by Mooncake, which is asked for Ascend's protocol."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from tests.support.long_tables import long_table

pytestmark = [pytest.mark.emulator, long_table]

NUM_WORDS = 4096
SKIPPED = 16  # words at the beginning that are not moved
DEADLINE_S = 60


def registered_engine(tensor: Any) -> Any:
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "ascend", "") == 0
    assert engine.register_memory(tensor.data_ptr(), tensor.nbytes) == 0
    return engine


def own(place: Any, done: Any) -> None:
    import torch

    words = torch.arange(NUM_WORDS, dtype=torch.int32, device="npu")
    torch.npu.synchronize()
    engine = registered_engine(words)
    place.send((engine.get_rpc_port(), words.data_ptr()))
    assert done.wait(DEADLINE_S)


def read(place: Any, answer: Any) -> None:
    import torch

    words = torch.zeros(NUM_WORDS, dtype=torch.int32, device="npu")
    torch.npu.synchronize()
    engine = registered_engine(words)
    assert place.poll(DEADLINE_S)
    port, address = place.recv()
    begin = SKIPPED * words.element_size()
    parts = [words.data_ptr() + begin], [address + begin], [words.nbytes - begin]
    assert engine.batch_transfer_sync_read(f"127.0.0.1:{port}", *parts) == 0
    answer.send(words.tolist())


def test_mooncake_reads_another_processs_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mooncake.engine", reason="no Mooncake: docs/ci.md, longer tables", exc_type=ImportError)
    monkeypatch.setenv("MC_FORCE_TCP", "1")  # also where there are RDMA devices
    context = multiprocessing.get_context("spawn")
    place_of, place = context.Pipe(duplex=False)
    words_of, words = context.Pipe(duplex=False)
    done = context.Event()
    processes = [
        context.Process(target=own, args=(place, done)),
        context.Process(target=read, args=(place_of, words)),
    ]
    try:
        for process in processes:
            process.start()
        assert words_of.poll(DEADLINE_S)
        assert words_of.recv() == [0] * SKIPPED + list(range(SKIPPED, NUM_WORDS))
        done.set()
        for process in processes:
            process.join(DEADLINE_S)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
