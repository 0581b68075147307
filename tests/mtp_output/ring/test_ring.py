# SPDX-License-Identifier: Apache-2.0
"""The ring: lossless and ordered, whoever dies; every wait ends; nothing is left."""

import os
import threading
import time

import numpy as np
import pytest

from tests.mtp_output.ring.rings import (
    BACKENDS,
    SIZE,
    backend,
    in_a_process_that_is_killed,
    new_instance,
    open_pair,
    random_section,
    rings_of,
    same,
)
from vllm_ascend_ext.mtp_output.errors import (
    ChannelClosedError,
    ChannelError,
    ChannelFullError,
    ChannelInUseError,
    ChannelSizeError,
    NoFrameError,
    ReaderGoneError,
    WriterGoneError,
)
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.receiver import OutputObserver, OutputReceiver
from vllm_ascend_ext.mtp_output.ring import folder as ring_folder
from vllm_ascend_ext.mtp_output.ring.file import Word
from vllm_ascend_ext.mtp_output.ring.folder import open_ring
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

SECTION = random_section(np.random.default_rng(0), Source.TARGET, 4)


@pytest.mark.parametrize("receiving", BACKENDS)
@pytest.mark.parametrize("sending", BACKENDS)
def test_frames_of_all_kinds_go_through(sending, receiving):
    instance, rng = new_instance(), np.random.default_rng(2)
    size = RingSize.for_engine(9, 3, 5, num_frames=6)
    sender = OutputSender(instance, 2, size, backend=backend(sending))
    receiver = OutputReceiver(instance, 2, backend=backend(receiving))
    sequence = 0
    while sequence < 300:  # rosters and shapes that stay for a while, and the ring goes round
        batch, top_k = int(rng.integers(0, 10)), int(rng.integers(0, 2)) * 5
        has_draft, prefix = rng.integers(2), f"run{sequence}"
        for _ in range(int(rng.integers(1, 9))):
            sections = [random_section(rng, Source.TARGET, batch, 4, top_k, prefix)]
            if has_draft:
                sections.append(random_section(rng, Source.DRAFT, batch // 2, 3, 0, prefix))
            assert sender.send(sequence * 7, *sections) == sequence
            frame = receiver.receive(5)
            assert (frame.sequence, frame.step) == (sequence, sequence * 7)
            assert same(frame.sections, sections)
            assert 0 <= time.time_ns() - frame.sent_ns < 60e9
            sequence += 1
    stats = sender.stats
    assert stats.frames == sequence and stats.bytes > size.capacity and stats.occupancy == 1
    receiver.acknowledge()
    assert sender.close(5) == 0
    receiver.close()
    assert not rings_of(instance)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_full_ring_blocks_until_there_is_room(name):
    with open_pair(backend(name), timeout_s=30) as (sender, receiver, _):
        for step in range(SIZE.num_descriptors):
            sender.send(step, SECTION)
        with pytest.raises(ChannelFullError, match=f"process {os.getpid()}, is 8 frames behind, the first"):
            sender.send(99, SECTION, timeout_s=0.1)

        def read():
            time.sleep(0.2)
            receiver.receive(1)
            receiver.acknowledge()

        thread = threading.Thread(target=read)
        thread.start()
        assert sender.send(8, SECTION) == 8
        thread.join()
        assert sender.stats.blocked_s >= 0.2
        assert [receiver.receive(1).step for _ in range(8)] == list(range(1, 9))


def test_a_full_ring_names_the_reader_that_died_or_never_came():
    instance = new_instance()
    sender = OutputSender(instance, 0, SIZE, timeout_s=0.05, backend=backend("python"))
    for step in range(SIZE.num_descriptors):
        sender.send(step, SECTION)
    with pytest.raises(ReaderGoneError, match="its reader, nobody, is 8 frames behind"):
        sender.send(8, SECTION)
    in_a_process_that_is_killed(lambda: OutputReceiver(instance, 0, backend=backend("python")))
    with pytest.raises(ReaderGoneError, match=r"its reader, process \d+, which is dead, is 8 frames behind"):
        sender.send(8, SECTION)
    assert sender.close() == 8


@pytest.mark.parametrize("name", BACKENDS)
def test_a_reader_goes_on_at_the_first_frame_that_was_not_acknowledged(name):
    instance, of = new_instance(), backend(name)
    sender = OutputSender(instance, 0, SIZE, backend=of)
    for step in range(5):  # all under the roster of the first
        sender.send(step, SECTION)

    def job():
        receiver = OutputReceiver(instance, 0, backend=of)
        assert [receiver.receive(1).step for _ in range(3)] == [0, 1, 2]  # the last is not acknowledged

    in_a_process_that_is_killed(job)
    receiver = OutputReceiver(instance, 0, backend=of)
    frames = [receiver.receive(1) for _ in range(3)]
    assert [frame.sequence for frame in frames] == [2, 3, 4]
    assert all(same(frame.sections, [SECTION]) for frame in frames)
    with pytest.raises(NoFrameError, match=f"process {os.getpid()} sent no frame 5 for 0.05 s"):
        receiver.receive(0.05)
    sender.close()
    receiver.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_killed_writer_loses_nothing_and_counts_on(name):
    instance, of = new_instance(), backend(name)

    def job():
        sender = OutputSender(instance, 0, SIZE, backend=of)
        for step in range(3):
            sender.send(step, SECTION)

    in_a_process_that_is_killed(job)
    receiver = OutputReceiver(instance, 0, backend=of)
    assert [receiver.receive(1).step for _ in range(3)] == [0, 1, 2]
    begin = time.monotonic()
    with pytest.raises(WriterGoneError, match=r"process \d+, which is dead, sent 3 frames"):
        receiver.receive(60)
    assert time.monotonic() - begin < 30
    sender = OutputSender(instance, 0, SIZE, backend=of)
    assert sender.send(3, SECTION) == 3
    assert receiver.receive(1).step == 3  # the same receiver, which noticed nothing else
    sender.close()
    receiver.close()
    assert not rings_of(instance)


def test_the_ring_of_a_dead_writer_of_another_size_is_replaced(caplog):
    instance = new_instance()
    in_a_process_that_is_killed(
        lambda: OutputSender(instance, 0, SIZE, backend=backend("python")).send(0, SECTION)
    )
    sender = OutputSender(instance, 0, RingSize.for_engine(16, 3), backend=backend("python"))
    assert "1 unread frames, from 0 on, are lost" in caplog.text
    assert sender.next_sequence == 0
    sender.close()
    assert not rings_of(instance)


def test_an_end_has_one_owner():
    with open_pair(backend("python")) as (sender, receiver, _):
        _, instance, replica = sender.path.name.split("-")
        with pytest.raises(ChannelInUseError, match=f"written by process {os.getpid()}"):
            OutputSender(int(instance), int(replica), SIZE)
        with pytest.raises(ChannelInUseError, match=f"read by process {os.getpid()}; others can only observe"):
            OutputReceiver(int(instance), int(replica))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_closed_ring_is_read_to_its_end(name):
    with open_pair(backend(name)) as (sender, receiver, _):
        sender.send(0, SECTION)
        sender.send(1, SECTION)
        assert sender.close() == 2
        assert [receiver.receive(1).step for _ in range(2)] == [0, 1]
        with pytest.raises(ChannelClosedError, match="closed after 2 frames"):
            receiver.receive(60)


def test_nobody_came():
    with pytest.raises(NoFrameError, match="no sender has started"):
        OutputReceiver(new_instance(), 0, timeout_s=0.02)


def test_observers_see_all_change_nothing_and_count_what_they_missed():
    with open_pair(backend("python")) as (sender, receiver, _):
        _, instance, replica = sender.path.name.split("-")
        sender.send(0, SECTION)
        observers = [OutputObserver(int(instance), int(replica), backend=backend("python")) for _ in range(2)]
        assert [observer.receive(1).step for observer in observers] == [0, 0]
        assert sender.stats.occupancy == 1
        for step in range(1, 40):
            sender.send(step, SECTION)
            receiver.receive(1)
            assert observers[0].receive(1).step == step
        frame = observers[1].receive(1)
        assert frame.sequence == 1 + observers[1].num_missed > 30
        assert same(frame.sections, [SECTION])  # under a roster that only the receiver's notes have
        with pytest.raises(TypeError):
            open_ring(sender.path, writable=False).words[Word.ACKNOWLEDGED] = 0
        for observer in observers:
            observer.close()


def test_impossible_sizes_are_refused_at_start_up(monkeypatch):
    folder = os.statvfs("/dev/shm")
    whole = folder.f_blocks * folder.f_frsize  # others may free memory at any time, so not what is free now
    with pytest.raises(ChannelSizeError, match="needs [0-9]+ bytes, /dev/shm has [0-9]+ left and the machine"):
        OutputSender(new_instance(), 0, RingSize(1024, 64, whole + 2**20, 8))
    monkeypatch.setattr(ring_folder, "_available_memory", lambda: 2**20)
    with pytest.raises(ChannelSizeError, match="and the machine 1048576 of memory"):
        OutputSender(new_instance(), 0, RingSize(1024, 64, 2**20, 8))
    with pytest.raises(ChannelSizeError, match="the largest is at most half the ring"):
        OutputSender(new_instance(), 0, RingSize(3000, 64, 4096, 8))
    for sizes in ((0, 3), (8, -1), (8, 255), (8, 3, -1)):
        with pytest.raises(ChannelSizeError, match="no ring for"):
            RingSize.for_engine(*sizes)


def test_a_frame_that_no_ring_of_this_size_holds():
    with (
        open_pair(backend("python")) as (sender, _, section),
        pytest.raises(ChannelSizeError, match="a frame of up to"),
    ):
        sender.send(0, section(Source.TARGET, 9, slots=200))


def test_the_largest_step_fits():
    instance, of = new_instance(), backend("python")
    sender = OutputSender(instance, 0, RingSize.for_engine(512, 9, 20, num_frames=2), timeout_s=0, backend=of)
    rng = np.random.default_rng(0)
    target, draft = (random_section(rng, source, 512, 10, 20, "x" * 240 + source.name) for source in Source)
    for section in (target, draft):
        section.packed_BW[:, 0] = 10
    assert [sender.send(step, target, draft) for step in range(2)] == [0, 1]
    assert sender.close() == 2


def test_rings_are_this_users_alone():
    with open_pair(backend("python")) as (sender, _, _):
        assert sender.path.stat().st_mode & 0o777 == 0o600
        sender.path.chmod(0o644)
        with pytest.raises(ChannelError, match="mode 644: not ours alone"):
            open_ring(sender.path, writable=False)


@pytest.mark.parametrize("name", BACKENDS)
def test_waiting_does_not_spin(name):
    with open_pair(backend(name)) as (sender, receiver, _):
        sender.send(0, SECTION)
        receiver.receive(1)
        begin = time.process_time()
        with pytest.raises(NoFrameError):
            receiver.receive(1.0)
        assert time.process_time() - begin < 0.3
