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
from vllm_ascend_ext.integration.dp_gather.counts.ahead import Coordinate, CountsAhead
from vllm_ascend_ext.integration.dp_gather.counts.overlapped import OverlappedCounts

pytestmark = pytest.mark.distributed


def counts_of(*, overlap: bool = False, deadline_s: float = 60.0) -> tuple[CountsAhead, Coordinate]:
    """Of this process, and how they ask."""
    overlapped = OverlappedCounts(Collectives(dist.new_group(backend="gloo"), deadline_s, "counts"))
    ranks = Collectives(dist.new_group(backend="gloo"), deadline_s, "commitments")

    def ask(num_rows: int, *args: Any, **kwargs: Any) -> tuple[bool, torch.Tensor, int]:
        result = overlapped.coordinate(num_rows, *args, **kwargs)
        overlapped.wait()
        return result

    if overlap:
        return CountsAhead(ranks, overlapped.coordinate, overlapped), overlapped.coordinate
    return CountsAhead(ranks, ask), ask


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
        for coordinate, own in (
            (counts.of_target, rows[rank]),
            (counts.of_draft, rows[rank]),
            (counts.of_draft, 1),
        ):
            should_ubatch, found, graph = coordinate(own, False, None, num_tokens_padded=own, cudagraph_mode=0)
            assert (should_ubatch, graph, counts.num_own_rows) == (False, 0, own)
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
    counts.of_target(5, False, None)
    counts.commit(Commitment(2, 2))
    if rank == 1:
        with pytest.raises(CommitmentError, match="replica 1 has 3 rows in a pass .* at most 2"):
            counts.of_target(3, False, None)
    else:
        assert counts.of_target(2, False, None)[1].tolist() == [2, 2]


def test_broken_promise_is_named() -> None:
    run_ranks(_broken, 2)


def _silent(rank: int) -> None:
    counts, ask = counts_of(deadline_s=2.0)
    if rank == 1:
        ask(1, False, None)  # and does not say anything about the next pass
        time.sleep(8)
        return
    counts.of_target(1, False, None)
    with pytest.raises(CollectiveError, match=r"'commitments' failed .* world ranks \[1\] are silent"):
        counts.of_target(1, False, None)


def test_silent_replica_is_named() -> None:
    run_ranks(_silent, 3)
