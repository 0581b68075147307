# SPDX-License-Identifier: Apache-2.0
"""Every operation on a group of Gloo ends at our deadline, not at the group's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from tests.support.gloo_ranks import run_ranks
from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives

pytestmark = pytest.mark.distributed

DEADLINE_S = 2.0
_BUSY_S = 20.0  # a bound for a busy machine, far from the group's deadline

OPERATIONS: dict[str, Callable[[Collectives], object]] = {
    "all_reduce_": lambda group: group.all_reduce_(torch.ones(4)),
    "begin_all_reduce_": lambda group: group.begin_all_reduce_(torch.ones(4))(),
    "broadcast_": lambda group: group.broadcast_(torch.ones(4), 1),
    "all_gather_into": lambda group: group.all_gather_into(torch.ones(4), torch.ones(2)),
    "all_gather_rows": lambda group: group.all_gather_rows(torch.ones(3, 2), [3, 1]),
    "gather_rows": lambda group: group.gather_rows(torch.ones(3, 2), [3, 1], 0),
    "reduce_scatter_into": lambda group: group.reduce_scatter_into(torch.ones(2), torch.ones(4)),
    "reduce_scatter_rows": lambda group: group.reduce_scatter_rows(torch.ones(4, 2), [3, 1]),
    "all_gather_variable": lambda group: group.all_gather_variable(torch.ones(3, 2), [3, 1]),
    "reduce_scatter_variable": lambda group: group.reduce_scatter_variable(torch.ones(4, 2), [3, 1]),
}


def _last_rank_hangs(rank: int) -> dict[str, tuple[str, float]]:
    """Runs all operations at once, each on a group of its own, in which rank 1 never takes part."""
    groups = {name: Collectives(dist.new_group(), DEADLINE_S, name) for name in OPERATIONS}
    outcomes: dict[str, tuple[str, float]] = {}

    def run(name: str) -> None:
        begin = time.monotonic()
        try:
            OPERATIONS[name](groups[name])
        except CollectiveError as error:
            outcomes[name] = str(error), time.monotonic() - begin

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in OPERATIONS]
    if rank == 0:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S + _BUSY_S)
    dist.monitored_barrier()  # rank 1 lives until rank 0 is done
    return outcomes


def test_every_operation_ends_at_the_deadline() -> None:
    assert set(OPERATIONS) == {name for name in vars(Collectives) if not name.startswith("_")}
    outcomes, _ = run_ranks(_last_rank_hangs, 2)
    assert set(outcomes) == set(OPERATIONS), f"no error: {set(OPERATIONS) - set(outcomes)}"
    for name, (message, seconds) in outcomes.items():
        assert "not finished within 2 s; world ranks [1] are silent" in message, (name, message)
        assert DEADLINE_S <= seconds < DEADLINE_S + _BUSY_S
