# SPDX-License-Identifier: Apache-2.0
"""Tells where this process stands among the ranks of its engine, from vLLM's groups."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.rank_place import RankPlace


def rank_place(parallel_config: Any) -> RankPlace:
    """Returns this rank's place; vLLM's groups must exist."""
    from vllm.distributed import get_pp_group, get_tp_group

    tp, pp = get_tp_group(), get_pp_group()
    return RankPlace(
        tp_rank=tp.rank_in_group,
        tp_size=tp.world_size,
        replica=parallel_config.data_parallel_index,
        pp_rank=pp.rank_in_group,
        pp_size=pp.world_size,
    )


def local_replicas(parallel_config: Any) -> range:
    """Returns the data-parallel replicas that this process's launch starts on this host."""
    first = parallel_config.data_parallel_rank
    return range(first, first + max(parallel_config.data_parallel_size_local, 1))
