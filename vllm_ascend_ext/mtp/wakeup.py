# SPDX-License-Identifier: Apache-2.0
"""Counters in shared memory: published so that a sleeper on them never misses a change."""

from __future__ import annotations

from typing import Protocol

from vllm_ascend_ext.mtp.futex import Futex
from vllm_ascend_ext.mtp.ring_file import RingFile, Word


class Counter(Protocol):
    """A word that one process counts up and others wait for; `waits` is where they say that they do."""

    def publish(self, value: int) -> None:
        """Stores `value` after all that was written before, and wakes who waits."""

    def wait(self, value: int, timeout_s: float) -> None:
        """Sleeps while the word holds `value`, `timeout_s` seconds at most; may return early."""

    def announce(self, waits: bool) -> None:
        """Says that this process waits, before it looks at the word again; or that it no longer does."""

    def wake(self) -> None:
        """Wakes who waits, though nothing was published."""


class PythonCounter:
    """In plain Python there are no fences, so every publication asks the kernel to wake whoever sleeps.

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

    def announce(self, waits: bool) -> None:
        self._words[self._waits] = waits  # for a writer that looks; ours wakes always

    def wake(self) -> None:
        self._futex.wake(self._address)
