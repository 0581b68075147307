# SPDX-License-Identifier: Apache-2.0
"""One rank of `test_aggregator_ranks_npu`: RANK, the number of ranks, the way, a folder, and how many schedules.

Writes what it was handed over in each schedule as JSON into the folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.npu.schedules import races, set_seed
from vllm_ascend_ext.collectives import Collectives
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.eplb.aggregator import ExpertLoadAggregator
from vllm_ascend_ext.eplb.device_sum import DeviceAggregator, max_slots
from vllm_ascend_ext.eplb.host_sum import HostAggregator
from vllm_ascend_ext.eplb.recorder import ExpertLoadRecorder
from vllm_ascend_ext.roll_call import RollCall

LAYERS, EXPERTS, ROWS, TOP_K = 3, 8, 6, 2
NUM_STEPS, REQUIRED = 24, 8


def route(rank: int, step: int) -> tuple[torch.Tensor, int]:
    """Ids ``[ROWS, TOP_K]`` and how many of their rows are real; a rank is idle every third step."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    num_tokens = 0 if (rank + step) % 3 == 0 else 1 + (rank + step) % ROWS
    return torch.randint(0, EXPERTS, (ROWS, TOP_K), generator=generator), num_tokens


def serve(
    rank: int,
    aggregator: ExpertLoadAggregator,
    recorder: ExpertLoadRecorder,
    ids: torch.Tensor,
    replay: Callable[[], None],
) -> list[tuple[int, int, list[list[int]], int]]:
    """Steps until the last hand-over; `replay` records `ids` in all layers."""
    handed, begin = [], aggregator.newest_tick
    for step in range(begin + 1, begin + NUM_STEPS + 1):
        topk_ids, num_tokens = route(rank, step)
        recorder.begin_step(num_tokens)
        ids.copy_(topk_ids)
        replay()
        aggregator.snapshot(step, required=(step - begin) % REQUIRED == 0)
        handed += aggregator.poll()
    aggregator.wait_until(begin + NUM_STEPS)
    handed += aggregator.poll()
    return [(load.step_begin, load.step_end, load.load_LE.tolist(), load.num_tokens) for (load,) in handed]


def main(rank: int, num_ranks: int, way: str, folder: str, num_schedules: int) -> None:
    torch.npu.set_device(rank)
    device = create_device("npu", rank)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_ranks)
    backend = {"host": "gloo", "device": "hccl"}[way]
    group = dist.new_group(backend=backend, timeout=timedelta(seconds=60))
    collectives = Collectives(group, 60.0, "expert load", stream_ordered=way == "device")
    recorder = ExpertLoadRecorder(LAYERS, EXPERTS, device.device, max_slots(num_ranks))
    aggregator: ExpertLoadAggregator
    if way == "host":
        aggregator = HostAggregator([recorder], device, collectives)
    else:
        aggregator = DeviceAggregator([recorder], device, collectives, RollCall(group, way))
    ids = torch.zeros(ROWS, TOP_K, dtype=torch.int64, device=device.device)

    def record() -> None:
        for layer in range(LAYERS):
            recorder.record(layer, ids)

    record()  # outside the graph once, as warm-up does; no row counts
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        record()
    handed = []
    for schedule in range(num_schedules):
        if num_schedules > 1:
            set_seed(1 + schedule * num_ranks + rank)
        handed += serve(rank, aggregator, recorder, ids, graph.replay if schedule % 2 else record)
    aggregator.close()
    Path(folder, f"{rank}.json").write_text(json.dumps({"handed": handed, "races": races()}))
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
