# SPDX-License-Identifier: Apache-2.0
"""Counters in shared memory: published so that a sleeper on them never misses a change."""

from __future__ import annotations

from vllm_ascend_ext.mtp.futex import Futex
from vllm_ascend_ext.mtp.ring_file import RingFile, Word


class Wakeup:
    """In plain Python there are no fences, so every change asks the kernel to wake whoever sleeps.

    The kernel orders the store before its look for sleepers, and a sleeper's look at the word after its entry.
    """

    def __init__(self) -> None:
        self._futex = Futex()

    def publish(self, file: RingFile, word: Word, value: int, waits: Word) -> None:
        """Stores `value` in `word`; wakes those who said in `waits` that they sleep."""
        file.words[word] = value
        self._futex.wake(file.word_address(word))

    def store(self, file: RingFile, word: Word, value: int) -> None:
        """Stores `value` in `word`, before anything that follows."""
        file.words[word] = value

    def wake(self, file: RingFile, word: Word) -> None:
        self._futex.wake(file.word_address(word))

    def wait(self, file: RingFile, word: Word, value: int, timeout_s: float) -> None:
        """Sleeps while `word` holds `value`, `timeout_s` seconds at most."""
        self._futex.wait(file.word_address(word), value, timeout_s)
