# SPDX-License-Identifier: Apache-2.0
"""Exchanges the replicas' row counts beside a pass's first layers instead of before the pass.

vLLM's `coordinate_batch_across_dp` waits for every replica before the pass begins. Without graphs and
micro-batches nothing needs the other replicas' counts before the first layer that exchanges rows. So the exchange
begins where vLLM asks, and that layer waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.dp_gather.commitment import Commitment
from vllm_ascend_ext.integration.dp_gather.counts.row_counts import PassCounts


@dataclass(slots=True)
class CountsStats:
    """Counts the exchanges begun beside a pass, and the seconds for which this rank waited for them."""

    num_exchanges: int = 0
    exchange_wait_s: float = 0.0


class OverlappedCounts:
    """Implements `RowCounts` by an exchange beside each pass, one at a time.

    Args:
        ranks: group of the replicas of one tensor-parallel rank, in host memory, used for nothing else.
    """

    is_ahead = False

    def __init__(self, ranks: Collectives) -> None:
        self.stats = CountsStats()
        self.own_rows_of_pass = 0
        self._ranks = ranks
        self._finish: Callable[[], None] | None = None

    @property
    def pending(self) -> bool:
        """Returns whether an exchange has begun for which nobody has waited yet."""
        return self._finish is not None

    def counts_of_target_pass(
        self,
        num_tokens_unpadded: int,
        allow_microbatching: bool,
        parallel_config: Any,
        num_tokens_padded: int | None = None,
        uniform_decode: bool | None = None,
        cudagraph_mode: int = 0,
    ) -> PassCounts:
        """Begins the exchange of the counts of a pass, which has no micro-batches and no graph."""
        assert cudagraph_mode == 0, "graphs need all counts before the pass"
        self.wait()  # a pass without a layer that exchanges rows has left its exchange unfinished
        self.own_rows_of_pass = num_tokens_unpadded
        counts = torch.zeros(self._ranks.num_ranks, dtype=torch.int32)
        counts[self._ranks.rank] = num_tokens_unpadded if num_tokens_padded is None else num_tokens_padded
        arriving = counts.clone()
        finish = self._ranks.begin_all_reduce_(arriving)

        def take() -> None:
            finish()
            counts.copy_(arriving)

        self._finish = take
        self.stats.num_exchanges += 1
        return False, counts, 0

    counts_of_draft_pass = counts_of_target_pass

    def wait(self) -> None:
        """Waits for the exchange under way, if there is one."""
        if self._finish is None:
            return
        finish, self._finish = self._finish, None
        started = time.perf_counter()
        finish()
        self.stats.exchange_wait_s += time.perf_counter() - started

    def commit(self, commitment: Commitment) -> None:
        """Does nothing: no replica plans by commitments."""

    def report(self) -> dict[str, Any]:
        """Returns what was counted since the last `reset`."""
        return asdict(self.stats)

    def reset(self) -> None:
        """Forgets what was counted."""
        self.stats = CountsStats()
