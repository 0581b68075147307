# SPDX-License-Identifier: Apache-2.0
"""Runs one rank of `test_snapshots_hccl`, its argument the way: reports what it was handed over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from tests.support.npu_ranks import NUM_RANKS, RankProcess
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.collectives.roll_call import RollCall
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.eplb_load.device_sum import DeviceSum, max_routed_ids
from vllm_ascend_ext.eplb_load.host_sum import HostSum
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import Snapshots

LAYERS, EXPERTS, ROWS, TOP_K = 3, 8, 6, 2
NUM_STEPS, REQUIRED = 24, 8


def route(rank: int, step: int) -> tuple[torch.Tensor, int]:
    """Ids ``[ROWS, TOP_K]`` and how many of their rows are real; a rank is idle every third step."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    num_tokens = 0 if (rank + step) % 3 == 0 else 1 + (rank + step) % ROWS
    return torch.randint(0, EXPERTS, (ROWS, TOP_K), generator=generator), num_tokens


def serve(
    rank: int,
    snapshots: Snapshots,
    recorder: ExpertLoadRecorder,
    ids: torch.Tensor,
    replay: Callable[[], None],
) -> list[tuple[int, int, list[list[int]], int]]:
    """Runs steps until the last hand-over; `replay` records `ids` in all layers."""
    handed, begin = [], snapshots.newest_tick
    for step in range(begin + 1, begin + NUM_STEPS + 1):
        topk_ids, num_tokens = route(rank, step)
        recorder.begin_step(num_tokens)
        ids.copy_(topk_ids)
        replay()
        snapshots.snapshot(step, required=(step - begin) % REQUIRED == 0)
        handed += snapshots.poll()
    snapshots.wait_until(begin + NUM_STEPS)
    handed += snapshots.poll()
    return [(load.step_begin, load.step_end, load.load_LE.tolist(), load.num_tokens) for (load,) in handed]


def main() -> None:
    process = RankProcess()
    (way,) = process.arguments
    device = create_device("npu", process.rank)
    group = process.new_group({"host": "gloo", "device": "hccl"}[way])
    collectives = Collectives(group, 60.0, "expert load", stream_ordered=way == "device")
    recorder = ExpertLoadRecorder(LAYERS, EXPERTS, device.device, max_routed_ids(NUM_RANKS))
    host, on_device = partial(HostSum, collectives), partial(DeviceSum, collectives, RollCall(group, way))
    snapshots = Snapshots([recorder], device, host if way == "host" else on_device)
    ids = torch.zeros(ROWS, TOP_K, dtype=torch.int64, device=device.device)

    def record() -> None:
        for layer in range(LAYERS):
            recorder.record(layer, ids)

    record()  # outside the graph once, as warm-up does; no row counts
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        record()
    handed = []
    for schedule in process.schedules():
        handed += serve(process.rank, snapshots, recorder, ids, graph.replay if schedule % 2 else record)
    snapshots.close()
    process.report(handed=handed)


if __name__ == "__main__":
    main()
