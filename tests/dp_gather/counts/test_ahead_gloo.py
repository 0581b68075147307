# SPDX-License-Identifier: Apache-2.0
"""Commitments over real Gloo processes: who plans ahead when, in which rows, and who is named when silent."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.gloo_ranks import run_ranks
from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives
from vllm_ascend_ext.dp_gather.commitment import OPEN, Commitment, CommitmentError
from vllm_ascend_ext.integration.dp_gather.counts.ahead import CountsAhead
from vllm_ascend_ext.integration.dp_gather.counts.overlapped import OverlappedCounts
from vllm_ascend_ext.integration.dp_gather.counts.row_counts import PassCounts, RowCounts

pytestmark = pytest.mark.distributed


class Asked(OverlappedCounts):
    """Waits for the counts before the pass."""

    def counts_of_target_pass(self, *args: Any, **kwargs: Any) -> PassCounts:
        result = super().counts_of_target_pass(*args, **kwargs)
        super().wait()
        return result

    counts_of_draft_pass = counts_of_target_pass

    def wait(self) -> None:
        assert self._finish is None, "counts that were asked for are there before the pass"


def counts_of(*, overlap: bool = False, deadline_s: float = 60.0) -> tuple[CountsAhead, RowCounts]:
    """This process's, and how it asks."""
    asking = OverlappedCounts if overlap else Asked
    counts = asking(Collectives(dist.new_group(backend="gloo"), deadline_s, "counts"))
    return CountsAhead(Collectives(dist.new_group(backend="gloo"), deadline_s, "commitments"), counts), counts


def _passes(rank: int, overlap: bool) -> list[list[list[int]]]:
    """The counts of each pass and of its two draft passes, by replica r of three, whose rows are as below."""
    counts, _ = counts_of(overlap=overlap)
    seen = []
    # by pass: rows of each replica, and whether it commits to at most these + r rows and 1 + r draft rows next
    for rows, commits in (
        ((7, 1, 1), (True, True, True)),  # the first is asked for, and so is the one after an open commitment
        ((2, 3, 4), (True, True, True)),
        ((2, 2, 2), (False, True, True)),
        ((9, 5, 1), (True, True, True)),
        ((4, 6, 7), (True, True, True)),
    ):
        counts.commit(Commitment(9 - rank, 2 + rank) if commits[rank] else OPEN)
        of_pass = []
        for counts_of_pass, own in (
            (counts.counts_of_target_pass, rows[rank]),
            (counts.counts_of_draft_pass, rows[rank]),
            (counts.counts_of_draft_pass, 1),
        ):
            should_ubatch, found, graph = counts_of_pass(own, False, None, num_tokens_padded=own, cudagraph_mode=0)
            assert (should_ubatch, graph, counts.own_rows_of_pass) == (False, 0, own)
            assert int(found[rank]) >= own and found.dtype == torch.int32
            counts.wait()
            of_pass.append(found.tolist())
        seen.append(of_pass)
    report = counts.report()
    assert (report["num_ahead"], report["num_asked"]) == (3, 2) == (report["num_draft_ahead"] // 2, 2)
    padded = sum(9 - rank - own for own in ((2, 3, 4)[rank], 2, (4, 6, 7)[rank]))
    assert report["num_pad_rows"] == 2 * padded + 3 * (1 + rank) and report["wait_s"] > 0
    assert report.get("num_exchanges", 6) == 6  # of two passes
    counts.reset()
    assert not any(counts.report().values())
    return seen


@pytest.mark.parametrize("overlap", [False, True], ids=["before", "beside"])
def test_bounds_or_counts(overlap: bool) -> None:
    bounds = [[9, 8, 7], [9, 8, 7], [2, 3, 4]]
    expected = [
        [[7, 1, 1], [7, 1, 1], [1, 1, 1]],
        bounds,
        bounds,
        [[9, 5, 1], [9, 5, 1], [1, 1, 1]],
        bounds,
    ]
    assert run_ranks(_passes, 3, overlap) == [expected] * 3


def _broken(rank: int) -> None:
    counts, _ = counts_of()
    counts.commit(Commitment(2, 2))
    counts.counts_of_target_pass(5, False, None)
    counts.commit(Commitment(2, 2))
    if rank == 1:
        with pytest.raises(CommitmentError, match="replica 1 has 3 rows in a pass .* at most 2"):
            counts.counts_of_target_pass(3, False, None)
    else:
        assert counts.counts_of_target_pass(2, False, None)[1].tolist() == [2, 2]


def test_broken_promise_is_named() -> None:
    run_ranks(_broken, 2)


def _silent(rank: int) -> None:
    counts, asking = counts_of(deadline_s=2.0)
    if rank == 1:
        asking.counts_of_target_pass(1, False, None)  # and does not say anything about the next pass
        time.sleep(8)
        return
    counts.counts_of_target_pass(1, False, None)
    with pytest.raises(CollectiveError, match=r"'commitments' failed .* world ranks \[1\] are silent"):
        counts.counts_of_target_pass(1, False, None)


def test_silent_replica_is_named() -> None:
    run_ranks(_silent, 3)
