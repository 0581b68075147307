# SPDX-License-Identifier: Apache-2.0
"""Makes exact hand-overs of the sums over the ranks: each covers whole steps of every rank.

Shapes: L = layers, E = experts, N = all counters of all recorders, S = recorders, M = N + S + 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MAX_READY = 256  # hand-overs kept for a consumer that does not poll


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLoad:
    """Holds what all ranks counted in the steps ``step_begin < step <= step_end``, the same on every rank.

    Attributes:
        step_begin: last step before the hand-over.
        step_end: last step of the hand-over.
        load_LE: ``[L, E]`` int64 on the host, routed tokens.
        num_tokens: tokens that were routed; each layer's row sums to ``num_tokens * K``.
    """

    step_begin: int
    step_end: int
    load_LE: torch.Tensor  # noqa: N815
    num_tokens: int


class HandOver:
    """Holds sums until they are exact, and hand-overs until they are polled. The owner does the locking.

    When a rank had no free buffer at a step, its counts come with a later sum. All ranks learn that from the sum
    itself, hold it, and hand it over together with the next, alike on all ranks.

    Args:
        shapes: ``(L, E)`` of each recorder.
        step: the step at which the first hand-over begins.
    """

    def __init__(self, shapes: Sequence[torch.Size], step: int) -> None:
        self._shapes = list(shapes)
        self._ready: deque[tuple[ExpertLoad, ...]] = deque()
        self.num_counters = sum(shape.numel() for shape in shapes)
        self.num_elements = self.num_counters + len(self._shapes) + 1
        self.until = step
        self.held_tokens = [0] * len(self._shapes)
        self.held_N = torch.zeros(self.num_counters, dtype=torch.int64)

    def reset(self, step: int) -> None:
        """Forgets everything; the next hand-over begins after `step`."""
        self.until = step
        self._ready.clear()
        self._hold_nothing()

    def add(self, step: int, sum_M: torch.Tensor) -> bool:
        """Adds a sum over all ranks of what was counted until `step`.

        Args:
            step: last step that the sum covers.
            sum_M: ``[M]`` int64: the counters, the tokens of each recorder, and how many ranks had no snapshot
                at `step`.

        Returns:
            Whether everything until `step` can be polled now.
        """
        # not in place: steps run in torch's inference mode, reports do not
        self.held_N = self.held_N + sum_M[: self.num_counters]
        tokens = sum_M[self.num_counters : -1].tolist()
        self.held_tokens = [a + b for a, b in zip(self.held_tokens, tokens, strict=True)]
        if int(sum_M[-1]):
            return False
        begin, loads_LE, tokens = self.until, self.split(self.held_N), self.held_tokens
        if len(self._ready) >= _MAX_READY:  # nobody polls
            last = self._ready.pop()
            begin = last[0].step_begin
            loads_LE = [load_LE + load.load_LE for load_LE, load in zip(loads_LE, last, strict=True)]
            tokens = [count + load.num_tokens for count, load in zip(tokens, last, strict=True)]
        self._ready.append(
            tuple(ExpertLoad(begin, step, load_LE, count) for load_LE, count in zip(loads_LE, tokens, strict=True))
        )
        self.until = step
        self._hold_nothing()
        return True

    @property
    def has_ready(self) -> bool:
        """Returns whether something can be polled; any thread may ask without a lock."""
        return bool(self._ready)

    def take_ready(self) -> list[tuple[ExpertLoad, ...]]:
        """Returns the hand-overs since the last call, oldest first."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def split(self, load_N: torch.Tensor) -> list[torch.Tensor]:
        """Returns views ``[L, E]`` of the counters of each recorder in a flat ``[N]`` or longer tensor."""
        sizes = [shape.numel() for shape in self._shapes]
        parts = torch.split(load_N[: self.num_counters], sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _hold_nothing(self) -> None:
        self.held_N = torch.zeros(self.num_counters, dtype=torch.int64)
        self.held_tokens = [0] * len(self._shapes)
