# SPDX-License-Identifier: Apache-2.0
"""The replicas' row counts of a pass, known before it: from what each committed to while the pass before ran.

While a pass computes, the replicas exchange their commitments about the next (`dp_gather/commitment.py`). When the
next begins and all have promised, there is nothing to ask: every replica's rows are its bound, and each pads its
own up to it, as vLLM does for graphs. When any has not, the counts are exchanged as without this.
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

_ATTRIBUTE = "ascend_ext_commitment"  # of vLLM's SchedulerOutput: (rows, draft rows)


def attach(scheduler_output: Any, commitment: Commitment) -> None:
    """Lets the output of a schedule carry what it commits to, as it travels to the workers."""
    carried = (commitment.max_rows, commitment.max_draft_rows)
    change.mark(seams.COMMITMENT, scheduler_output, _ATTRIBUTE, carried)


def attached(scheduler_output: Any) -> Commitment | None:
    """What `attach` put there; None where no pass will run.

    Raises:
        IncompatibleVllmError: there are rows and no commitment, so that another scheduler is at work than ours.
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
    """Passes by how their counts were known, on this rank.

    Attributes:
        num_ahead, num_asked: of the target model: from commitments, and by asking.
        num_draft_ahead, num_draft_asked: of the draft model.
        num_pad_rows: rows that this replica added up to its bound, in passes of both.
        num_rows_ahead: rows of passes from commitments, those added included.
        wait_s: seconds that this rank stood still for commitments, or for counts before a pass.
    """

    num_ahead: int = 0
    num_asked: int = 0
    num_draft_ahead: int = 0
    num_draft_asked: int = 0
    num_pad_rows: int = 0
    num_rows_ahead: int = 0
    wait_s: float = 0.0


class CountsAhead:
    """Takes the counts from commitments, in the target model's passes and the draft model's. See `RowCounts`.

    Every target pass takes what was gathered beside the one before, and begins the gathering for the one after.

    Args:
        ranks: replicas of one tensor-parallel rank, in host memory, used for nothing else.
        asking: exchange of the counts in passes about which a replica has not committed.
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
        """Whether the rows of the step's passes are bounds: on all replicas or on none."""
        return self._bounds is not None

    def commit(self, commitment: Commitment) -> None:
        """Takes what the coming pass carries about the one after it; without a call that is nothing."""
        self._own = commitment

    def counts_of_target_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Takes the bounds that were gathered, or asks; see `RowCounts`.

        Raises:
            CollectiveError: a commitment is missing at the deadline; names the silent ranks.
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
        """Does likewise for a pass of the draft model: the first of a step has the target's rows, later ones a
        row a request."""
        later = self._num_drafts > 0
        self._num_drafts += 1
        if self._bounds is None:
            self.stats.num_draft_asked += 1
            return self._asked(self._asking.counts_of_draft_pass, num_tokens_unpadded, args, kwargs)
        self.stats.num_draft_ahead += 1
        rows = [bound.max_draft_rows if later else bound.max_rows for bound in self._bounds]
        return self._planned(rows, num_tokens_unpadded)

    def wait(self) -> None:
        """Waits for the counts that were asked for; see `RowCounts`."""
        self._asking.wait()

    def report(self) -> dict[str, Any]:
        """Returns what was counted since the last `reset`, and what the way of asking counted."""
        return asdict(self.stats) | self._asking.report()

    def reset(self) -> None:
        """Forgets what was counted."""
        self.stats = AheadStats()
        self._asking.reset()

    def _gathered(self) -> tuple[Commitment, ...]:
        """All replicas' commitments about the pass that begins; empty before the first."""
        if self._arriving is None:
            return ()
        (vector, finish), self._arriving = self._arriving, None
        started = time.perf_counter()
        finish()
        self.stats.wait_s += time.perf_counter() - started
        return decode(vector.tolist())

    def _begin(self) -> None:
        """Sends this replica's commitment on its way; it arrives while the pass computes."""
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
        self.wait()  # for a pass before this one without a layer that exchanged rows
        self.own_rows_of_pass = num_rows
        self.stats.num_rows_ahead += own
        self.stats.num_pad_rows += own - num_rows
        return False, torch.tensor(rows, dtype=torch.int32), 0
