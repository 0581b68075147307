# SPDX-License-Identifier: Apache-2.0
"""Lays out a request as `ops.mtp_pack_output` writes it: read by the operator and by readers of frames, who have
no torch.

Shapes: B = requests, S = token slots a request (1 + speculative tokens), K = top-k, W = words of a record.

A record, in int32 words; each section is a multiple of 8 words (32 bytes), and what carries nothing is -1 (as a
log-probability: NaN):

    0    number of accepted tokens, 0 to S
    1    status
    8    S token ids, accepted ones first
    ..   only with top-k: S x K ids, S x K log-probabilities (the bits of float32), S ranks of the token itself
"""

from __future__ import annotations

import functools
from itertools import accumulate
from typing import NamedTuple

HEADER_WORDS = 8
UNIT = 8  # words: 32 bytes, the block of an AscendC copy; csrc_ascendc/mtp_pack/tiling.h has the same layout


class MtpRecord(NamedTuple):
    """Computes where the sections of a record of `num_slots` (S) slots and `top_k` (K, 0 without) begin, in
    words."""

    num_slots: int
    top_k: int

    @property
    def sections(self) -> list[int]:
        """Returns the words of each section after the header: tokens; with top-k also ids, log-probabilities,
        ranks."""
        slots, top = _round_up(self.num_slots), _round_up(self.num_slots * self.top_k)
        return [slots, top, top, slots] if self.top_k else [slots]

    @property
    def starts(self) -> tuple[int, ...]:
        """Returns the word at which each of `sections` begins."""
        return tuple(accumulate(self.sections, initial=HEADER_WORDS))[:-1]

    @property
    def words(self) -> int:
        """Returns W, the words of a record."""
        return HEADER_WORDS + sum(self.sections)


# what every step asks for several times; a graph's symbolic sizes ask the record
@functools.lru_cache(maxsize=1024)
def record_words(num_slots: int, top_k: int) -> int:
    """Returns W, the words of a record of these slots and columns."""
    return MtpRecord(num_slots, top_k).words


@functools.lru_cache(maxsize=1024)
def record_starts(num_slots: int, top_k: int) -> tuple[int, ...]:
    """Returns the word at which each section of a record of these slots and columns begins."""
    return MtpRecord(num_slots, top_k).starts


def _round_up(words: int) -> int:
    return (words + UNIT - 1) // UNIT * UNIT
