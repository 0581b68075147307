# SPDX-License-Identifier: Apache-2.0
"""One rank of `test_dp_gather_npu`: RANK, the number of ranks, a folder, and how many schedules.

Raises where a layer over HCCL differs from a single process; writes the races that were seen as JSON.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.distributed.dp_layer import forward_modes, plan_for, run_layer, topologies
from tests.npu.schedules import races, set_seed
from vllm_ascend_ext.collectives import Collectives
from vllm_ascend_ext.parallel.gather_rows import GatherMode


def main(rank: int, num_ranks: int, folder: str, num_schedules: int) -> None:
    torch.npu.set_device(rank)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_ranks)
    world = dist.new_group(backend="hccl", timeout=timedelta(seconds=60))
    group = Collectives(world, 60.0, "gather", stream_ordered=True)
    replica = Collectives(world, 60.0, "attention TP", stream_ordered=True)  # of both ranks where it is not each
    num_layers = 0
    for schedule in range(num_schedules):
        if num_schedules > 1:
            set_seed(1 + schedule * num_ranks + rank)
        for topology in topologies(num_ranks):
            attn_tp = replica if topology.attn_tp_size == num_ranks else None
            for counts in forward_modes(topology.dp_size).values():
                for mode in GatherMode:
                    for partial in (False, True) if attn_tp is not None else (False,):
                        plan = plan_for(counts, topology, mode)
                        run_layer(group, attn_tp, plan, partial=partial, device="npu")
                        num_layers += 1
    Path(folder, f"{rank}.json").write_text(json.dumps({"num_layers": num_layers, "races": races()}))
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
