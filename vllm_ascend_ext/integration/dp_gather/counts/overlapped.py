# SPDX-License-Identifier: Apache-2.0
"""The replicas' row counts of a pass, exchanged beside the pass's first layers instead of before it.

vLLM's `coordinate_batch_across_dp` waits for every replica before the pass begins. Without graphs and
micro-batches nothing needs the other replicas' counts before the first layer that exchanges rows: the exchange is
begun where vLLM asks, and awaited in that layer.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.integration.upstream.seams.change import Change, temporarily, wrap
from vllm_ascend_ext.integration.upstream.seams.rows import row_counts as seams
from vllm_ascend_ext.integration.upstream.seams.seam import Seam


@dataclass(slots=True)
class CountsStats:
    """Exchanges begun beside a pass, and seconds that this rank stood still for them."""

    num_exchanges: int = 0
    exchange_wait_s: float = 0.0


class OverlappedCounts:
    """Stands for vLLM's function; one exchange is under way at a time.

    Args:
        ranks: of one tensor-parallel rank's replicas, on the host, used for nothing else.
    """

    def __init__(self, ranks: Collectives) -> None:
        self.stats = CountsStats()
        self._ranks = ranks
        self._finish: Callable[[], None] | None = None

    @property
    def pending(self) -> bool:
        """Whether an exchange has been begun and not yet awaited."""
        return self._finish is not None

    def coordinate(
        self,
        num_tokens_unpadded: int,
        allow_microbatching: bool,
        parallel_config: Any,
        num_tokens_padded: int | None = None,
        uniform_decode: bool | None = None,
        cudagraph_mode: int = 0,
    ) -> tuple[bool, torch.Tensor, int]:
        """With vLLM's parameters and results: no micro-batches, the rows ``[dp]`` int32, and no graph.

        Of the rows only this replica's are valid before `wait`.
        """
        assert cudagraph_mode == 0, "graphs need all counts before the pass"
        self.wait()  # for a pass without a layer that exchanged rows
        own = num_tokens_unpadded if num_tokens_padded is None else num_tokens_padded
        counts = torch.zeros(self._ranks.num_ranks, dtype=torch.int32)
        counts[self._ranks.rank] = own
        arriving = counts.clone()
        finish = self._ranks.begin_all_reduce_(arriving)

        def take() -> None:
            finish()
            counts.copy_(arriving)

        self._finish = take
        self.stats.num_exchanges += 1
        return False, counts, 0

    def wait(self) -> None:
        """From here on the counts of the pass are valid.

        Raises:
            CollectiveError: not within the deadline; names the silent ranks.
        """
        if self._finish is None:
            return
        finish, self._finish = self._finish, None
        started = time.perf_counter()
        finish()
        self.stats.exchange_wait_s += time.perf_counter() - started

    def report(self) -> dict[str, Any]:
        """What was counted since the last `reset`."""
        return asdict(self.stats)

    def reset(self) -> None:
        """Forgets what was counted."""
        self.stats = CountsStats()


def bind(runner: Any, config: DpGatherConfig) -> OverlappedCounts:
    """Let a runner and its drafter exchange their counts by the result. Every rank calls it: it makes a group."""
    counts = OverlappedCounts(replicas(config, "DP counts"))
    put_in_place(runner, counts.coordinate, counts.coordinate)
    runner.put_wait_for_row_counts(counts.wait)
    return counts


def replicas(config: DpGatherConfig, name: str) -> Collectives:
    """One tensor-parallel place's replicas, in a Gloo group of their own. Every rank calls it."""
    from vllm.distributed import get_dp_group

    group = dist.new_group(
        get_dp_group().ranks,
        backend="gloo",
        timeout=timedelta(seconds=config.deadline_s),
        use_local_synchronization=True,  # ranks of other tensor-parallel places make groups of their own
    )
    return Collectives(group, config.deadline_s, name)


def put_in_place(runner: Any, of_target: Callable[..., Any], of_draft: Callable[..., Any]) -> None:
    """Let both stand for vLLM's function: one in the runner, the other in its drafter, if that has passes."""
    _use(runner, seams.DETERMINE_TARGET, seams.COORDINATE_TARGET, of_target)
    drafter = getattr(runner, "drafter", None)
    if hasattr(drafter, "_determine_batch_execution_and_padding"):
        _use(drafter, seams.DETERMINE_DRAFT, seams.COORDINATE_DRAFT, of_draft)


def _use(owner: Any, where: Seam, asked: Seam, coordinate: Callable[..., Any]) -> None:
    """Makes `owner` call `coordinate` instead of vLLM's function while it decides on a batch."""

    def asking_ours(determine: Callable[..., Any]) -> Callable[..., Any]:
        changes = [Change(asked, coordinate)]

        @functools.wraps(determine)
        def ours(*args: Any, **kwargs: Any) -> Any:
            with temporarily(changes):
                return determine(*args, **kwargs)

        return ours

    wrap(where, owner, asking_ours)
