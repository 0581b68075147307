# SPDX-License-Identifier: Apache-2.0
"""Programs with one planted ordering bug each, and their corrected twins, for one process.

Each returns whether its result is right, which the bug leaves to chance. A corrected twin must be free of races
and right under every schedule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

SIZE = 4096


@dataclass(frozen=True)
class Planted:
    """Describes a bug, what to do for it to be gone, and what its report must say (regular expressions)."""

    run: Callable[[bool], bool]  # given whether to be correct
    report: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.run.__name__


def _full(value: float, size: int = SIZE) -> torch.Tensor:
    return torch.full((size,), value, dtype=torch.float32, device="npu")


@functools.cache
def _side_stream() -> torch.npu.Stream:
    """Returns one stream for all: torch hands out 32 in turn, among them the one that graphs are captured on."""
    return torch.npu.Stream()


def missing_wait_stream(correct: bool) -> bool:
    """Reads on a side stream what the main stream has just been told to write."""
    main, side = torch.npu.current_stream(), _side_stream()
    values = _full(1)
    torch.npu.synchronize()
    values.add_(1)
    if correct:
        side.wait_stream(main)
    with torch.npu.stream(side):
        doubled = values * 2
    torch.npu.synchronize()
    return bool((doubled.cpu() == 4).all())


def missing_record_stream(correct: bool) -> bool:
    """Frees the main stream's tensor, and uses its memory again, while a side stream still reads it."""
    main, side = torch.npu.current_stream(), _side_stream()
    values = _full(1)
    side.wait_stream(main)
    with torch.npu.stream(side):
        increased = values + 1
    if correct:
        values.record_stream(side)
    del values
    other = _full(9)
    torch.npu.synchronize()
    del other
    return bool((increased.cpu() == 2).all())


def early_pinned_read(correct: bool) -> bool:
    """Reads a result on the host before the copy that brings it is known to be complete."""
    values = _full(3)
    result = torch.zeros(SIZE, pin_memory=True)
    result.copy_(values, non_blocking=True)
    if correct:
        torch.npu.current_stream().synchronize()
    right = result[SIZE // 2].item() == 3
    torch.npu.synchronize()
    return right


def early_pinned_reuse(correct: bool) -> bool:
    """Puts the next batch into a pinned buffer that the last copy still reads."""
    buffer = torch.full((SIZE,), 1.0, pin_memory=True)
    values = buffer.to("npu", non_blocking=True)
    if correct:
        torch.npu.current_stream().synchronize()
    buffer.fill_(2)
    torch.npu.synchronize()
    return bool((values.cpu() == 1).all())


def missing_wait_in_graph(correct: bool) -> bool:
    """Reads on a captured side stream what the capture's stream writes after the side stream was forked off."""
    side = _side_stream()
    values, copied = _full(1), _full(0)
    torch.npu.synchronize()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        main = torch.npu.current_stream()
        side.wait_stream(main)
        values.add_(1)
        if correct:
            side.wait_stream(main)
        with torch.npu.stream(side):
            copied.copy_(values)
        main.wait_stream(side)
    for _ in range(2):
        graph.replay()
    torch.npu.synchronize()
    return bool((copied.cpu() == 3).all())


def unjoined_capture(correct: bool) -> bool:
    """Ends a capture that a side stream has joined, without waiting for it."""
    side = _side_stream()
    values, doubled = _full(1), _full(0)
    torch.npu.synchronize()
    graph = torch.npu.NPUGraph()
    try:
        # a capture that fails at its end stays the thread's current stream
        with torch.npu.stream(torch.npu.current_stream()), torch.npu.graph(graph):
            main = torch.npu.current_stream()
            side.wait_stream(main)
            with torch.npu.stream(side):
                torch.add(values, values, out=doubled)
            if correct:
                main.wait_stream(side)
    except RuntimeError:
        return False
    graph.replay()
    return bool((doubled.cpu() == 2).all())


class ExpertLoad:
    """Counts routed tokens for each expert on a side stream, in the manner of vllm-ascend's #4214.

    That change lost half of a model's accuracy and was reverted. The pattern: the side stream adds up the counts
    and gathers them without waiting for the main stream that makes them, the counts are temporaries of the main
    stream, and the buffer of the gather is made anew each time.
    """

    NUM_LAYERS, NUM_EXPERTS, NUM_RANKS, NUM_TOKENS = 2, 8, 2, 64

    def __init__(self, correct: bool, all_gather: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
        self.correct, self.all_gather = correct, all_gather
        self.main, self.side = torch.npu.current_stream(), _side_stream()
        self.load_LE = torch.zeros(self.NUM_LAYERS, self.NUM_EXPERTS, device="npu")
        self.gathered_RLE = torch.zeros(self.NUM_RANKS, *self.load_LE.shape, device="npu")
        torch.npu.synchronize()

    def add_layer(self, layer: int, topk_ids_T: torch.Tensor) -> None:
        """Counts a layer's load: called by the model's layer, on the main stream."""
        experts_E = torch.arange(self.NUM_EXPERTS, device="npu")
        counts_E = (topk_ids_T.unsqueeze(1) == experts_E).float().sum(0)
        if self.correct:
            self.side.wait_stream(self.main)
            counts_E.record_stream(self.side)
        with torch.npu.stream(self.side):
            self.load_LE[layer].add_(counts_E)

    def gather(self) -> torch.Tensor:
        """Gathers every rank's load, on the host."""
        if not self.correct:
            with torch.npu.stream(self.side):
                gathered_RLE = torch.empty_like(self.gathered_RLE)
                self.all_gather(gathered_RLE, self.load_LE)
            return gathered_RLE.cpu()  # on the main stream
        with torch.npu.stream(self.side):
            self.all_gather(self.gathered_RLE, self.load_LE)
            return self.gathered_RLE.cpu()


def run_expert_load(correct: bool, all_gather: Callable[[torch.Tensor, torch.Tensor], object]) -> bool:
    """Runs two steps of a model, the load gathered after each."""
    expert_load = ExpertLoad(correct, all_gather)
    topk_ids_T = torch.arange(expert_load.NUM_TOKENS, device="npu") % expert_load.NUM_EXPERTS
    for _ in range(2):
        for layer in range(expert_load.NUM_LAYERS):
            expert_load.add_layer(layer, topk_ids_T)
        gathered_RLE = expert_load.gather()
    torch.npu.synchronize()
    return bool((gathered_RLE == 2 * expert_load.NUM_TOKENS / expert_load.NUM_EXPERTS).all())


def expert_load_of_4214(correct: bool) -> bool:
    """Repeats the pattern of vllm-ascend #4214 in one process: every rank's load is this one's."""
    return run_expert_load(correct, lambda gathered, load: gathered.copy_(load.expand_as(gathered)))


IN_PROCESS = [
    Planted(missing_wait_stream, ("does not wait for", "in missing_wait_stream", "wait_stream, or an event")),
    Planted(
        missing_record_stream, ("freed tensor was handed out again", "in missing_record_stream", "record_stream")
    ),
    Planted(early_pinned_read, ("reads pinned memory before", "in early_pinned_read", "synchronise")),
    Planted(early_pinned_reuse, ("overwrites pinned memory while", "in early_pinned_reuse", "another buffer")),
    Planted(missing_wait_in_graph, ("does not wait for", "captured in graph", "in missing_wait_in_graph")),
    Planted(unjoined_capture, ("ended without waiting for", "in unjoined_capture")),
    Planted(expert_load_of_4214, ("does not wait for", "in add_layer", "in run_expert_load")),
]
