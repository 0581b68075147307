# SPDX-License-Identifier: Apache-2.0
"""Finds out which ranks are alive after a collective failed: survivors report themselves in the group's store.

A backend tells of a dead rank only its neighbours, by an address and not by a rank.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch.distributed as dist

Answer = TypeVar("Answer")
_POLL_INTERVAL_S = 0.02
_ANSWER_S = 2.0  # for which a store is waited for


def world_ranks(group: dist.ProcessGroup) -> tuple[int, ...]:
    """Returns the world ranks of the group, or group ranks when torch does not know the group (vLLM's stateless
    ones)."""
    try:
        return tuple(dist.get_process_group_ranks(group))
    except KeyError:
        return tuple(range(group.size()))


class RollCall:
    """Keeps the failure reports of the ranks of one group.

    Args:
        group: the group whose store carries the reports; without a store no rank is ever heard of.
        name: the group's name, the same on all its ranks.
    """

    def __init__(self, group: dist.ProcessGroup, name: str) -> None:
        ranks = world_ranks(group)
        self._rank = ranks[group.rank()]
        self._others = [rank for rank in ranks if rank != self._rank]
        self._prefix = f"ascend_ext/{name}/failed"
        self._is_cut_off = False
        self._store: Any = None
        with suppress(RuntimeError):  # a group made without a store
            self._store = group.get_group_store()

    def reported(self) -> list[int]:
        """Returns the other world ranks that reported a failure; none when the store cannot be reached."""
        try:
            return self._asking(lambda: [rank for rank in self._others if self._has(rank)])
        except RuntimeError:
            return []

    def report(self, wait_s: float) -> list[int] | None:
        """Reports a failure of this rank and waits up to `wait_s` seconds for the others to do so.

        Returns:
            The world ranks that did not; None when the store cannot be reached.
        """
        if self._store is None:
            return None
        deadline = time.monotonic() + wait_s
        try:
            self._asking(lambda: self._store.set(f"{self._prefix}/{self._rank}", "1"))
            while silent := self._asking(lambda: [rank for rank in self._others if not self._has(rank)]):
                if time.monotonic() >= deadline:
                    break
                time.sleep(_POLL_INTERVAL_S)
            return silent
        except RuntimeError:
            return None

    def _asking(self, ask: Callable[[], Answer]) -> Answer:
        """Returns what the store answers, whose own calls have no deadline: over a cable that was cut they wait
        until the kernel gives up, after a quarter of an hour.

        Raises:
            RuntimeError: the store has ended, or has not answered in time, now or before.
        """
        if self._is_cut_off:
            raise RuntimeError("the store does not answer")
        answers: list[Answer] = []
        errors: list[RuntimeError] = []

        def wait() -> None:
            try:
                answers.append(ask())
            except RuntimeError as error:
                errors.append(error)

        waiting = threading.Thread(target=wait, name="ascend-ext-roll-call", daemon=True)
        waiting.start()
        waiting.join(_ANSWER_S)
        if errors:
            raise errors[0]
        if not answers:
            self._is_cut_off = True
            raise RuntimeError("the store does not answer")
        return answers[0]

    def _has(self, rank: int) -> bool:
        return self._store is not None and bool(self._store.check([f"{self._prefix}/{rank}"]))
