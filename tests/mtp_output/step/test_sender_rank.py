# SPDX-License-Identifier: Apache-2.0
"""Exactly one rank of each replica sends, on every layout; FastDeploy's duplicates were under EP + TP."""

from __future__ import annotations

import itertools

import pytest

from vllm_ascend_ext.mtp_output.step.sender_rank import route_output
from vllm_ascend_ext.rank_place import RankPlace


@pytest.mark.parametrize(("tp", "pp", "cp", "dp"), list(itertools.product((1, 2, 8), (1, 4), (1, 2), (1, 4))))
def test_one_rank_of_each_replica_sends(tp: int, pp: int, cp: int, dp: int) -> None:
    senders = [
        (place.replica, place.tp_rank, place.pp_rank, place.cp_rank)
        for replica, tp_rank, pp_rank, cp_rank in itertools.product(range(dp), range(tp), range(pp), range(cp))
        if route_output(place := RankPlace(tp_rank, tp, replica, pp_rank, pp, cp_rank, cp)).sends
    ]
    assert senders == [(replica, 0, pp - 1, 0) for replica in range(dp)]


def test_rank_outside_its_group_is_refused() -> None:
    with pytest.raises(ValueError, match="tp 2/2"):
        RankPlace(2, 2)
    with pytest.raises(ValueError, match="replica -1"):
        RankPlace(0, 1, -1)
