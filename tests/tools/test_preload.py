# SPDX-License-Identifier: Apache-2.0
"""What is imported for all ranks costs the garbage collector nothing, neither here nor in the ranks."""

from __future__ import annotations

import gc

import pytest

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = pytest.mark.engine


def test_ranks_collect_nothing_of_what_was_imported_before(vllm_preloaded: None) -> None:
    def job(rank: Rank) -> tuple[bool, int]:
        return gc.isenabled(), len(gc.get_objects())

    assert gc.isenabled()
    assert gc.get_freeze_count() > 300_000, "what is imported is still collected"
    ((is_enabled, num_objects),) = run_ranks(job, Layout(), deadline_s=60)
    assert is_enabled and num_objects < gc.get_freeze_count() / 2
