# SPDX-License-Identifier: Apache-2.0
"""Expert load summed over real processes: exact, the same on all ranks, and a rank that is gone is named."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.support.gloo_ranks import run_ranks
from tests.support.simulated_device import QueuedCollectives, SimulatedDevice
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.collectives.roll_call import RollCall
from vllm_ascend_ext.eplb_load.device_sum import DeviceSum, max_routed_ids
from vllm_ascend_ext.eplb_load.host_sum import HostSum
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import AggregationError, Snapshots
from vllm_ascend_ext.eplb_load.transit import SIDE_STREAM

pytestmark = pytest.mark.distributed

LAYERS, EXPERTS, TOP_K = 3, 8, 2
NUM_STEPS, REQUIRED = 36, 12


def _snapshots(
    way: str, device: SimulatedDevice, num_ranks: int, **options: float
) -> tuple[Snapshots, ExpertLoadRecorder]:
    group = dist.new_group(list(range(num_ranks)), backend="gloo")
    collectives = Collectives(group, options.get("deadline_s", 60.0), "expert load")
    if way == "host":
        recorder = ExpertLoadRecorder(LAYERS, EXPERTS, device.device)
        return Snapshots([recorder], device, partial(HostSum, collectives), **options), recorder
    recorder = ExpertLoadRecorder(LAYERS, EXPERTS, device.device, max_routed_ids(num_ranks))
    queued = QueuedCollectives(device, collectives.all_reduce_, num_ranks)
    on_device = partial(DeviceSum, queued, RollCall(group, "device"))
    return Snapshots([recorder], device, on_device, **options), recorder


def _route(rank: int, step: int) -> torch.Tensor:
    """What this rank routes in a step, ``[T, K]``; some ranks are idle in some steps."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    num_tokens = 0 if (rank + step) % 3 == 0 else 1 + (rank * step) % 5
    return torch.randint(0, EXPERTS, (num_tokens, TOP_K), generator=generator)


Handed = list[tuple[int, int, list[list[int]], int]]  # step_begin, step_end, load [L][E], tokens


def _run(rank: int, way: str, num_ranks: int, seed: int) -> Handed:
    """The hand-overs of this rank, with nothing left behind."""
    uneven = random.Random(seed + 100 * rank)
    delays_s = {"main": 0.001 * uneven.random(), SIDE_STREAM: 0.004 * uneven.random()}
    device = SimulatedDevice(seed + rank, delays_s)
    handed = []
    with device.launching():
        snapshots, recorder = _snapshots(way, device, num_ranks, num_buffers=1 + seed % 2)
        for step in range(1, NUM_STEPS + 1):
            topk_ids = _route(rank, step)
            recorder.begin_step(len(topk_ids))
            for layer in range(LAYERS):
                recorder.record(layer, torch.cat([topk_ids, torch.zeros(2, TOP_K, dtype=torch.int64)]))
            snapshots.snapshot(step, required=step % REQUIRED == 0)
            handed += snapshots.poll()
            if uneven.random() < 0.2:
                time.sleep(0.005 * uneven.random())
        snapshots.wait_until(NUM_STEPS)
        handed += snapshots.poll()
        assert all(int(load.load_LE.sum()) == 0 for load in snapshots.pending(held=True))
        snapshots.close()
    return [(load.step_begin, load.step_end, load.load_LE.tolist(), load.num_tokens) for (load,) in handed]


@pytest.mark.parametrize("way", ["host", "device"])
@pytest.mark.parametrize(("num_ranks", "seed"), [(2, 0), (3, 1)])
def test_all_ranks_are_handed_the_same_exact_sums(way: str, num_ranks: int, seed: int) -> None:
    outcomes = run_ranks(_run, num_ranks, way, num_ranks, seed)
    handed = outcomes[0]
    assert all(ours == handed for ours in outcomes)
    assert [begin for begin, *_ in handed] == [0] + [end for _, end, *_ in handed[:-1]]
    assert set(range(REQUIRED, NUM_STEPS + 1, REQUIRED)) <= {end for _, end, *_ in handed}
    for begin, end, load_LE, num_tokens in handed:
        routed = torch.cat([_route(r, s) for r in range(num_ranks) for s in range(begin + 1, end + 1)])
        expected = torch.bincount(routed.flatten(), minlength=EXPERTS).tolist()
        assert load_LE == [expected] * LAYERS, (begin, end)
        assert num_tokens == len(routed)


def _killed(rank: int, folder: str, way: str, num_ranks: int) -> None:
    device = SimulatedDevice()
    with device.launching():
        snapshots, recorder = _snapshots(way, device, num_ranks, deadline_s=2.0)
        recorder.begin_step(1)
        snapshots.snapshot(1, required=True)
        snapshots.wait_until(1)
        dist.barrier()
        if rank == num_ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        started = time.monotonic()
        recorder.begin_step(1)
        with pytest.raises(AggregationError) as error:
            snapshots.snapshot(2)
            while time.monotonic() < started + 30:
                snapshots.poll()
                time.sleep(0.01)
        elapsed_s = time.monotonic() - started
        assert int(recorder.num_tokens) == 1  # what the engine uses is untouched
    Path(folder, str(rank)).write_text(f"{elapsed_s:.2f} {error.value}")


@pytest.mark.parametrize("way", ["host", "device"])
def test_rank_killed_mid_gather_is_named_within_the_deadline(way: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="rank 2 left with exit code -9") as outcome:
        run_ranks(_killed, 3, str(tmp_path), way, 3)
    assert "rank 0" not in str(outcome.value) and "rank 1" not in str(outcome.value)
    for rank in (0, 1):
        elapsed_s, _, message = (tmp_path / str(rank)).read_text().partition(" ")
        assert float(elapsed_s) < 2.0 + 4.0 + 4.0  # the deadline, the roll call, a busy machine
        assert "world ranks [2] are silent" in message and "step" in message
