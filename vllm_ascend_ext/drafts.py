# SPDX-License-Identifier: Apache-2.0
"""Counts the rows that speculative decoding gives a request; every part that sizes a batch asks here."""

from __future__ import annotations


def decode_tokens(num_drafts: int) -> int:
    """Returns the most tokens that a decoding request has in a step: the last one it sampled, and its drafts."""
    return 1 + num_drafts
