# SPDX-License-Identifier: Apache-2.0
"""Tells the replicas' row counts before a pass, from what each replica committed to one pass earlier.

While a pass computes, the replicas exchange their commitments about the next (`dp_gather/commitment.py`). When the
next pass begins and all replicas have committed, nothing has to be asked: every replica pads its rows up to its
bound, as vLLM does for graphs. When any replica has not, the counts are exchanged as if there were no commitments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.dp_gather.commitment import OPEN, Commitment, bounds, check, decode, encode
from vllm_ascend_ext.integration.dp_gather.counts.row_counts import PassCounts, RowCounts
from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import row_counts as seams

_ATTRIBUTE = "ascend_ext_commitment"  # attribute that we add to vLLM's SchedulerOutput: (rows, draft rows)


def attach(scheduler_output: Any, commitment: Commitment) -> None:
    """Adds a commitment to a scheduler's output, which carries it to the workers."""
    carried = (commitment.max_rows, commitment.max_draft_rows)
    change.mark(seams.COMMITMENT, scheduler_output, _ATTRIBUTE, carried)


def attached(scheduler_output: Any) -> Commitment | None:
    """Returns the commitment that `attach` added, or None when no pass will run.

    Raises:
        IncompatibleVllmError: there are rows and no commitment, so the scheduler at work is not ours.
    """
    carried = getattr(scheduler_output, _ATTRIBUTE, None)
    if carried is not None:
        return Commitment(*carried)
    if not scheduler_output.total_num_scheduled_tokens:
        return None
    raise IncompatibleVllmError(
        "a step came without a commitment about the next, which ascend_ext.dp_gather.counts_ahead needs of the "
        "scheduler; set counts_ahead to false"
    )


@dataclass(slots=True)
class AheadStats:
    """Counts this rank's passes by how their row counts became known.

    Attributes:
        num_ahead: passes of the target model whose counts came from commitments.
        num_asked: passes of the target model whose counts were asked for.
        num_draft_ahead: passes of the draft model whose counts came from commitments.
        num_draft_asked: passes of the draft model whose counts were asked for.
        num_pad_rows: rows that this replica added to reach its bound, in passes of both models.
        num_rows_ahead: rows of this replica in passes with counts from commitments, added rows included.
        wait_s: time for which this rank waited for commitments, or for counts before a pass, in seconds.
    """

    num_ahead: int = 0
    num_asked: int = 0
    num_draft_ahead: int = 0
    num_draft_asked: int = 0
    num_pad_rows: int = 0
    num_rows_ahead: int = 0
    wait_s: float = 0.0


class CountsAhead:
    """Implements `RowCounts` by commitments, for the passes of the target model and of the draft model.

    Every target pass takes the commitments that were gathered during the pass before, and starts to gather those
    about the pass after.

    Args:
        ranks: group of the replicas of one tensor-parallel rank, in host memory, used for nothing else.
        asking: way to exchange the counts in passes about which some replica has not committed.
    """

    def __init__(self, ranks: Collectives, asking: RowCounts) -> None:
        self.stats = AheadStats()
        self.own_rows_of_pass = 0
        self._ranks = ranks
        self._asking = asking
        self._own = OPEN
        self._arriving: tuple[torch.Tensor, Callable[[], None]] | None = None
        self._bounds: tuple[Commitment, ...] | None = None
        self._num_drafts = 0

    @property
    def is_ahead(self) -> bool:
        """Returns whether the row counts of the step's passes are bounds, on all replicas or on none."""
        return self._bounds is not None

    def commit(self, commitment: Commitment) -> None:
        """Takes the commitment that the coming pass carries; a pass without a call commits to nothing."""
        self._own = commitment

    def counts_of_target_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Returns the bounds that were gathered, or asks for the counts.

        Raises:
            CollectiveError: a commitment is missing at the deadline. The message names the silent ranks.
            CommitmentError: this replica has more rows than it committed to.
        """
        self._bounds = bounds(self._gathered())
        self._num_drafts = 0
        if self._bounds is None:
            self.stats.num_asked += 1
            result = self._asked(self._asking.counts_of_target_pass, num_tokens_unpadded, args, kwargs)
        else:
            self.stats.num_ahead += 1
            result = self._planned([bound.max_rows for bound in self._bounds], num_tokens_unpadded)
        self._begin()
        return result

    def counts_of_draft_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Returns the bounds of a pass of the draft model, or asks for the counts.

        A step's first draft pass has as many rows as the target's pass, later ones have one row a request.
        """
        later = self._num_drafts > 0
        self._num_drafts += 1
        if self._bounds is None:
            self.stats.num_draft_asked += 1
            return self._asked(self._asking.counts_of_draft_pass, num_tokens_unpadded, args, kwargs)
        self.stats.num_draft_ahead += 1
        rows = [bound.max_draft_rows if later else bound.max_rows for bound in self._bounds]
        return self._planned(rows, num_tokens_unpadded)

    def wait(self) -> None:
        """Waits for the counts that were asked for."""
        self._asking.wait()

    def report(self) -> dict[str, Any]:
        """Returns what was counted since the last `reset`, and the report of the way of asking."""
        return asdict(self.stats) | self._asking.report()

    def reset(self) -> None:
        """Forgets what was counted."""
        self.stats = AheadStats()
        self._asking.reset()

    def _gathered(self) -> tuple[Commitment, ...]:
        """Returns all replicas' commitments about the pass that begins; empty before the first pass."""
        if self._arriving is None:
            return ()
        (vector, finish), self._arriving = self._arriving, None
        started = time.perf_counter()
        finish()
        self.stats.wait_s += time.perf_counter() - started
        return decode(vector.tolist())

    def _begin(self) -> None:
        """Starts to send this replica's commitment, which arrives at the others while the pass computes."""
        own, self._own = self._own, OPEN
        vector = torch.tensor(encode(own, self._ranks.rank, self._ranks.num_ranks))
        self._arriving = vector, self._ranks.begin_all_reduce_(vector)

    def _asked(
        self, ask: Callable[..., PassCounts], num_rows: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> PassCounts:
        self.own_rows_of_pass = num_rows
        started = time.perf_counter()
        result = ask(num_rows, *args, **kwargs)
        self.stats.wait_s += time.perf_counter() - started
        return result

    def _planned(self, rows: list[int], num_rows: int) -> PassCounts:
        own = rows[self._ranks.rank]
        check(num_rows, own, self._ranks.rank)
        self.wait()  # a pass without a layer that exchanges rows has left its exchange unfinished
        self.own_rows_of_pass = num_rows
        self.stats.num_rows_ahead += own
        self.stats.num_pad_rows += own - num_rows
        return False, torch.tensor(rows, dtype=torch.int32), 0
