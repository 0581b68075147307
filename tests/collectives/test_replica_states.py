# SPDX-License-Identifier: Apache-2.0
"""The exchange of replicas' states: as vLLM's own, in the group that vLLM makes, and with an end."""

from __future__ import annotations

import itertools
import multiprocessing
from typing import Any

import pytest

from tests.support.server import free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_REPLICAS = 2
STATES = list(itertools.product((False, True), repeat=2))
DEADLINE_S = 3


def _replica(rank: int, port: int, said: Any) -> None:
    from vllm.config import ParallelConfig
    from vllm.distributed.utils import stateless_init_torch_distributed_process_group

    from vllm_ascend_ext.collectives.collectives import CollectiveError, Collectives
    from vllm_ascend_ext.integration.server.replica_states import exchange_states

    group = stateless_init_torch_distributed_process_group("127.0.0.1", port, rank, NUM_REPLICAS, backend="gloo")
    replicas, hurried = (Collectives(group, deadline_s, "replicas") for deadline_s in (60, DEADLINE_S))
    pairs = itertools.product(STATES, repeat=NUM_REPLICAS)
    answers = [
        (ParallelConfig.sync_dp_state(group, *pair[rank]), exchange_states(replicas, *pair[rank]))
        for pair in pairs
    ]
    if rank == 0:
        try:
            exchange_states(hurried, True, False)
        except CollectiveError as error:
            said.put((answers, str(error), error.silent_ranks))
    multiprocessing.Event().wait()  # at its end torch would wait for the other


def test_as_vllms_and_with_an_end() -> None:
    context = multiprocessing.get_context("spawn")
    said, port = context.Queue(), free_port()
    replicas = [
        context.Process(target=_replica, args=(rank, port, said), daemon=True) for rank in range(NUM_REPLICAS)
    ]
    for replica in replicas:
        replica.start()
    try:
        answers, message, silent = said.get(timeout=200)
    finally:
        for replica in replicas:
            replica.kill()
    assert len(answers) == len(STATES) ** NUM_REPLICAS and all(theirs == ours for theirs, ours in answers)
    assert silent == (1,) and "group 'replicas' failed on world rank 0 of [0, 1]" in message, message
    assert f"not finished within {DEADLINE_S} s" in message, message
