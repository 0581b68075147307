# SPDX-License-Identifier: Apache-2.0
"""Counts the graphs that forked ranks capture and replay on an NPU, and lets those ranks compile their models."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest


class GraphCounts:
    """Counts in memory that this process shares with its forks, from its construction on.

    monkeypatch: puts back what is replaced. scripts/env.sh turns torch.compile off, which reads the setting anew
    at each call; a cache of what was compiled would hide what the next test has to compile.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        context = multiprocessing.get_context("fork")
        self._captures, self._replays = context.Value("i", 0), context.Value("i", 0)
        monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
        monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
        graph = torch.npu.NPUGraph
        monkeypatch.setattr(graph, "capture_begin", _counted(graph.capture_begin, self._captures))
        monkeypatch.setattr(graph, "replay", _counted(graph.replay, self._replays))

    @property
    def captures(self) -> int:
        return self._captures.value

    @property
    def replays(self) -> int:
        return self._replays.value


def _counted(function: Any, count: Any) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        with count.get_lock():
            count.value += 1
        return function(*args, **kwargs)

    return counted
