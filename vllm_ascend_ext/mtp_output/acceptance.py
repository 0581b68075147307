# SPDX-License-Identifier: Apache-2.0
"""Counts how many drafts were verified and accepted, per position: of one replica, from its frames or before they
are sent."""

from __future__ import annotations

import numpy as np

from vllm_ascend_ext.mtp_output.frames.section import Int32Array


class Acceptance:
    """Sums over requests and steps.

    Attributes:
        num_drafts, num_accepted: per position, the first draft first.
        num_tokens: tokens accepted in all, those that follow a rejected or the last draft included.
    """

    def __init__(self) -> None:
        self.num_drafts: list[int] = []
        self.num_accepted: list[int] = []
        self.num_tokens = 0

    def add(self, num_drafts_B: Int32Array, num_tokens_B: Int32Array) -> None:
        """Adds a step of B requests: ``[B]`` drafts that were verified, ``[B]`` tokens that came out (0: none)."""
        self.num_tokens += int(num_tokens_B.sum())
        drafts_B = np.where(num_tokens_B > 0, num_drafts_B, 0)
        accepted_B = np.minimum(num_tokens_B - 1, drafts_B)
        for position in range(int(drafts_B.max(initial=0))):
            if position == len(self.num_drafts):
                self.num_drafts.append(0)
                self.num_accepted.append(0)
            self.num_drafts[position] += int(np.count_nonzero(drafts_B > position))
            self.num_accepted[position] += int(np.count_nonzero(accepted_B > position))

    @property
    def rates(self) -> list[float]:
        """Returns accepted over verified drafts, per position."""
        return [accepted / drafts for accepted, drafts in zip(self.num_accepted, self.num_drafts, strict=True)]
