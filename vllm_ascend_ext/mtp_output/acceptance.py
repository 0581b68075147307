# SPDX-License-Identifier: Apache-2.0
"""Counts how many drafts were verified and accepted, per position: of one replica, from its frames or before they
are sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable


class Acceptance:
    """Sums over requests and steps."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[int, int]] = Counter()  # by drafts verified and tokens that came out

    def add(self, num_drafts_B: Iterable[int], num_tokens_B: Iterable[int]) -> None:  # noqa: N803
        """Adds a step of B requests: drafts that were verified, and tokens that came out (0: none), of each."""
        self._requests.update(zip(num_drafts_B, num_tokens_B, strict=True))

    @property
    def num_tokens(self) -> int:
        """Returns the tokens accepted in all, those that follow a rejected or the last draft included."""
        return sum(tokens * number for (_, tokens), number in self._requests.copy().items())

    @property
    def num_drafts(self) -> list[int]:
        """Returns the drafts that were verified, per position, the first draft first."""
        return self._by_position(lambda drafts, tokens: drafts)

    @property
    def num_accepted(self) -> list[int]:
        """Returns the drafts that were accepted, per position, as long as `num_drafts`."""
        return self._by_position(lambda drafts, tokens: min(tokens - 1, drafts))

    def _by_position(self, count: Callable[[int, int], int]) -> list[int]:
        """Returns how many requests reach each position, those without tokens left out."""
        requests = {pair: number for pair, number in self._requests.copy().items() if pair[1] > 0}
        longest = max((drafts for drafts, _ in requests), default=0)
        return [
            sum(number for pair, number in requests.items() if count(*pair) > position)
            for position in range(longest)
        ]

    @property
    def rates(self) -> list[float]:
        """Returns accepted over verified drafts, per position."""
        return [accepted / drafts for accepted, drafts in zip(self.num_accepted, self.num_drafts, strict=True)]
