# SPDX-License-Identifier: Apache-2.0
"""One rank on a device whose streams are threads: nothing is lost or counted twice, and every wait is needed."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from tests.support.load_run import Make, Run, host_way
from tests.support.simulated_device import QueuedCollectives, SimulatedDevice, SimulatedEvent
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.eplb_load.device_sum import DeviceSum, max_routed_ids
from vllm_ascend_ext.eplb_load.handover import HandOver
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder
from vllm_ascend_ext.eplb_load.snapshots import AggregationError, Snapshots
from vllm_ascend_ext.eplb_load.transit import SIDE_STREAM


def device_way(device: SimulatedDevice, recorders: list[ExpertLoadRecorder], **options: object) -> Snapshots:
    alone = QueuedCollectives(device, lambda x: None, 1)
    return Snapshots(recorders, device, partial(DeviceSum, alone, None), **options)


both_ways = pytest.mark.parametrize("make", [host_way, device_way])


@both_ways
@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_and_every_hand_over_is_exact(make: Make, seed: int) -> None:
    device = SimulatedDevice(seed, {"main": 0.0005 * (seed % 3), SIDE_STREAM: 0.002 * (seed % 2)})
    with device.launching():
        run = Run(device, make, seed, num_buffers=1 + seed % 3)
        run.go(42, interval=1 + seed % 2)
        assert run.errors() == []
    ends = [loads[0].step_end for loads in run.handed]
    boundaries = [step for step in range(7, 43, 7) if step % (1 + seed % 2) == 0]
    assert set(boundaries) <= set(ends)
    stats = run.snapshots.stats
    assert stats.num_snapshots + stats.num_merged == 42 // (1 + seed % 2)
    run.snapshots.close()


@both_ways
def test_busy_buffers_merge_and_do_not_block_the_step(make: Make) -> None:
    device = SimulatedDevice()
    with device.launching():
        run = Run(device, make, seed=1, num_buffers=2)
        side = device.stream(SIDE_STREAM)
        side.open.clear()  # the side stream stands still
        for number in range(1, 21):
            run.step(number)
            assert run.snapshots.snapshot(number) == (number <= 2)
            run.handed += run.snapshots.poll()
        assert run.handed == [] and run.snapshots.stats.num_merged == 18
        side.open.set()
        run.snapshots.drain()
        run.step(21)
        assert run.snapshots.snapshot(21, required=True)
        run.snapshots.drain()
        run.handed += run.snapshots.poll()
        assert run.errors() == []
    assert run.handed[-1][0].step_end == 21
    run.snapshots.close()


class NoWait(SimulatedEvent):
    def wait(self, stream: object = None) -> None:
        pass


class EarlyQuery(SimulatedEvent):
    def query(self) -> bool:
        return True


class PlantedDevice(SimulatedDevice):
    """With one of the orders missing."""

    kind: type[SimulatedEvent] = SimulatedEvent

    def event(self) -> SimulatedEvent:
        return self.kind(self)


@both_ways
@pytest.mark.parametrize("kind", [NoWait, EarlyQuery])
def test_each_event_is_needed(make: Make, kind: type[SimulatedEvent]) -> None:
    """#4214's pattern is the first: its gather never waited for the stream that wrote the load."""
    device = PlantedDevice(0, {"main": 0.002, SIDE_STREAM: 0.0005})
    device.kind = kind
    with device.launching():
        run = Run(device, make, seed=3)
        run.go(20)
        device.synchronize()
        assert run.errors()
    run.snapshots.close()


@both_ways
def test_device_that_stands_still_is_an_error_after_the_deadline(make: Make) -> None:
    device = SimulatedDevice()
    with device.launching():
        run = Run(device, make, seed=1, deadline_s=0.3)
        device.stream(SIDE_STREAM).open.clear()
        run.step(1)
        run.snapshots.snapshot(1)
        started = time.monotonic()
        with pytest.raises(AggregationError, match="step 1 has not reached the host within 0.3 s"):
            while time.monotonic() < started + 10:
                run.snapshots.poll()
                time.sleep(0.01)
        with pytest.raises(AggregationError):
            run.snapshots.snapshot(2)
        device.stream(SIDE_STREAM).open.set()


@both_ways
def test_required_snapshot_waits_no_longer_than_the_deadline(make: Make) -> None:
    device = SimulatedDevice()
    with device.launching():
        run = Run(device, make, seed=1, deadline_s=0.3, num_buffers=1)
        device.stream(SIDE_STREAM).open.clear()
        run.snapshots.snapshot(1)
        with pytest.raises(AggregationError, match="0.3 s"):
            run.snapshots.snapshot(2, required=True)
        device.stream(SIDE_STREAM).open.set()


def test_consumer_that_never_polls_costs_bounded_memory_and_loses_nothing() -> None:
    device = create_device("cpu")
    run = Run(device, host_way, seed=5)
    for number in range(1, 1001):
        run.step(number)
        run.snapshots.snapshot(number, required=True)
    run.snapshots.drain()
    run.handed = run.snapshots.poll()
    assert len(run.handed) <= 256 and run.handed[-1][0].step_end == 1000
    assert run.errors() == []
    run.snapshots.close()


def test_counts_near_the_counters_range_wait_for_a_buffer() -> None:
    device = SimulatedDevice()
    with device.launching():
        recorder = ExpertLoadRecorder(1, 4, device.device)
        snapshots = host_way(device, [recorder], num_buffers=1)
        side = device.stream(SIDE_STREAM)
        side.open.clear()
        recorder.begin_step(2**30 + 1)
        snapshots.snapshot(1)
        recorder.begin_step(2**30 + 1)  # more than half of an int32
        side.open.set()
        assert snapshots.snapshot(2) and snapshots.stats.num_waits == 1
        snapshots.drain()
        snapshots.close()


def test_device_sum_cannot_overflow() -> None:
    device = SimulatedDevice()
    three = QueuedCollectives(device, lambda x: None, 3)
    with pytest.raises(ValueError, match=f"max_routed_ids={max_routed_ids(3)}"):
        Snapshots([ExpertLoadRecorder(1, 4, device.device)], device, partial(DeviceSum, three, None))
    assert 3 * max_routed_ids(3) < 2**31


@both_ways
def test_reset_forgets(make: Make) -> None:
    device = SimulatedDevice()
    with device.launching():
        run = Run(device, make, seed=2)
        run.go(9, interval=2)
        run.snapshots.reset()
        assert all(load.load_LE.sum() == 0 for load in run.snapshots.pending(held=True))
        assert run.snapshots.poll() == []
        run.step(10)
        run.snapshots.snapshot(10)
        run.snapshots.drain()
        ((first, _),) = run.snapshots.poll()
    assert first.step_begin == 8 and torch.equal(first.load_LE, run.at[10][0] - run.at[9][0])
    run.snapshots.close()


def test_steps_go_forward() -> None:
    run = Run(create_device("cpu"), host_way, seed=1)
    run.snapshots.snapshot(4)
    with pytest.raises(ValueError, match="step 4 after step 4"):
        run.snapshots.snapshot(4)
    run.snapshots.close()


def test_hand_over_in_and_out_of_inference_mode() -> None:
    """A step runs in torch's inference mode, a report of the same engine does not."""
    handover = HandOver([torch.Size((1, 2))], 0)
    with torch.inference_mode():
        assert handover.add(1, torch.tensor([3, 4, 7, 0]))
        assert not handover.add(2, torch.tensor([1, 0, 1, 1]))
    assert handover.add(3, torch.tensor([1, 1, 2, 0]))
    assert [[(load.step_end, load.load_LE.tolist()) for load in loads] for loads in handover.take_ready()] == [
        [(1, [[3, 4]])],
        [(3, [[2, 1]])],
    ]
