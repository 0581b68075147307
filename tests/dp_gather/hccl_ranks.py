# SPDX-License-Identifier: Apache-2.0
"""Runs one rank of `test_exchange_hccl`: raises where a layer over HCCL differs from a single process."""

from __future__ import annotations

from tests.dp_gather.layer import forward_modes, plan_for, run_layer, topologies
from tests.support.npu_ranks import NUM_RANKS, RankProcess
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode


def main() -> None:
    process = RankProcess()
    world = process.new_group()
    group = Collectives(world, 60.0, "gather", stream_ordered=True)
    replica = Collectives(world, 60.0, "attention TP", stream_ordered=True)  # of both ranks where it is not each
    num_layers = 0
    for _ in process.schedules():
        for topology in topologies(NUM_RANKS):
            attn_tp = replica if topology.attn_tp_size == NUM_RANKS else None
            for counts in forward_modes(topology.dp_size).values():
                for mode in GatherMode:
                    for partial in (False, True) if attn_tp is not None else (False,):
                        plan = plan_for(counts, topology, mode)
                        run_layer(group, attn_tp, plan, partial=partial, device="npu")
                        num_layers += 1
    process.report(num_layers=num_layers)


if __name__ == "__main__":
    main()
