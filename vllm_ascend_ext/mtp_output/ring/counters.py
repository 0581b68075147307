# SPDX-License-Identifier: Apache-2.0
"""Counts in shared memory, published so that a sleeper never misses a change."""

from __future__ import annotations

from typing import Protocol

from vllm_ascend_ext.mtp_output.ring.file import RingFile, Word
from vllm_ascend_ext.mtp_output.ring.futex import Futex

SLICE_S = 0.1
"""The longest sleep without a look at whether the other end lives."""


class Counter(Protocol):
    """Counts up a word of one process for which another process waits; the word `waits` holds the value waited
    for."""

    def publish(self, value: int) -> None:
        """Stores `value` after all that was written before, and wakes who waits."""

    def wait(self, value: int, timeout_s: float) -> None:
        """Sleeps while the word holds `value`, `timeout_s` seconds at most; may return early."""

    def announce(self, wanted: int) -> None:
        """Says, before this process looks at the word again, that it waits for `wanted`; for nothing by 0."""

    def wake(self) -> None:
        """Wakes who waits, though nothing was published."""


class PythonCounter:
    """Publishes without fences, which plain Python does not have: every publication asks the kernel to wake
    sleepers.

    The kernel orders the store before its look for sleepers, and a sleeper's look at the word after its entry.
    """

    def __init__(self, file: RingFile, word: Word, waits: Word) -> None:
        self._futex = Futex()
        self._words, self._word, self._waits = file.words, word, waits
        self._address = file.word_address(word)

    def publish(self, value: int) -> None:
        self._words[self._word] = value
        self.wake()

    def wait(self, value: int, timeout_s: float) -> None:
        self._futex.wait(self._address, value, timeout_s)

    def announce(self, wanted: int) -> None:
        self._words[self._waits] = wanted  # for a writer that looks; ours wakes always

    def wake(self) -> None:
        self._futex.wake(self._address)
