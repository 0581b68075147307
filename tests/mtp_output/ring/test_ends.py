# SPDX-License-Identifier: Apache-2.0
"""Whose a ring is, when it goes, and what its ends do after it."""

import fcntl
import logging
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
    own_folder,
    random_section,
    same,
)
from vllm_ascend_ext.mtp_output import receiver as receiver_module
from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, ChannelError, ChannelInUseError, NoFrameError
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.outlet import EngineOutlet
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring import reader as ring_reader
from vllm_ascend_ext.mtp_output.ring.file import Word
from vllm_ascend_ext.mtp_output.ring.folder import clear_dead_rings, open_ring, ring_path
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

SECTION = random_section(np.random.default_rng(0), Source.TARGET, 4)
NOBODYS = 2**63  # an instance that none of these is
PYTHON = backend("python")


@pytest.fixture
def folder():
    with own_folder() as path:
        yield path


def leave_ring(instance, replica=0, num_frames=1):
    """A dead sender's."""

    def job():
        sender = OutputSender(instance, replica, SIZE, backend=PYTHON)
        for step in range(num_frames):
            sender.send(step, SECTION)

    in_a_process_that_is_killed(job)
    return ring_path(instance, replica)


def set_word(path, word, value):
    ring = open_ring(path, writable=True)
    ring.words[word] = value
    ring.close()


def test_dead_rings_are_cleared_away_after_a_while(folder):
    paths = [leave_ring(new_instance(), num_frames=number) for number in (0, 1)]
    sender = OutputSender(new_instance(), 0, SIZE, backend=PYTHON)  # which looks as it starts
    assert clear_dead_rings(NOBODYS) == []
    assert clear_dead_rings(NOBODYS, grace_s=0) == paths
    assert clear_dead_rings(NOBODYS, grace_s=0) == [] and sender.path.exists()
    sender.close()
    assert not list(folder.iterdir())


def test_an_instance_never_clears_away_its_own_replicas_rings(folder):
    """Replica 1 may take longer to come back than replica 0 did."""
    instance = new_instance()
    path = leave_ring(instance, replica=1)
    for _ in range(2):
        assert clear_dead_rings(instance, grace_s=0) == [] and path.exists()


def test_a_reader_that_came_back_begins_the_wait_anew(folder):
    path = leave_ring(instance := new_instance())
    assert clear_dead_rings(NOBODYS) == []  # found dead, now
    set_word(path, Word.ORPHANED_AT, 1)  # long ago
    in_a_process_that_is_killed(lambda: OutputReceiver(instance, 0, backend=PYTHON))
    assert clear_dead_rings(NOBODYS, grace_s=600) == [] and path.exists()


def test_odd_and_locked_files_stop_nobody(folder):
    (folder / "ascend_ext-1-0").touch()
    os.mkfifo(folder / "ascend_ext-2-0", 0o600)
    (folder / "ascend_ext-3-0").mkdir()
    (folder / "ascend_ext-4-0").write_bytes(bytes(10_000))
    for path in folder.iterdir():
        path.chmod(0o600)
    locked = leave_ring(new_instance())
    with open(locked) as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        num_open, begin = len(os.listdir("/proc/self/fd")), time.monotonic()
        assert clear_dead_rings(NOBODYS, grace_s=0) == []
        assert len(os.listdir("/proc/self/fd")) == num_open and time.monotonic() - begin < 3
    for instance in (1, 2, 4):
        with pytest.raises(ChannelError, match="is no ring"):
            OutputReceiver(instance, 0, timeout_s=0, backend=PYTHON)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_reader_of_a_ring_that_was_replaced_is_told_so(folder, name):
    instance = new_instance()
    leave_ring(instance)
    receiver = OutputReceiver(instance, 0, backend=backend(name))
    sender = OutputSender(instance, 0, RingSize.for_engine(16, 3), backend=PYTHON)
    sender.send(7, SECTION)
    assert receiver.receive(5).step == 0  # what it has, it can still read
    with pytest.raises(ChannelClosedError, match="was replaced or removed after 1 frames: open it again"):
        receiver.receive(5)
    receiver.close()
    receiver = OutputReceiver(instance, 0, backend=backend(name))
    assert receiver.receive(5).step == 7
    sender.close()
    receiver.close()


def test_a_reader_that_opened_a_ring_as_it_was_replaced_opens_the_new_one(folder, monkeypatch):
    instance, await_ring = new_instance(), ring_reader._await_ring
    leave_ring(instance)
    senders = []

    def await_then_replace(*args, **kwargs):
        file = await_ring(*args, **kwargs)
        if not senders:
            senders.append(OutputSender(instance, 0, RingSize.for_engine(16, 3), backend=PYTHON))
            senders[0].send(7, SECTION)
        return file

    monkeypatch.setattr(ring_reader, "_await_ring", await_then_replace)
    receiver = OutputReceiver(instance, 0, backend=PYTHON)
    assert receiver.receive(5).step == 7
    senders[0].close()
    receiver.close()


def test_close_removes_no_other_ring_of_its_name(folder):
    instance = new_instance()
    first = OutputSender(instance, 0, SIZE, backend=PYTHON)
    first.path.unlink()
    second = OutputSender(instance, 0, SIZE, backend=PYTHON)
    first.close()
    assert second.path.exists()
    second.close()
    assert not second.path.exists()


@pytest.mark.parametrize("name", BACKENDS)
def test_what_was_unread_at_the_end_of_an_engine_is_read_by_the_next_reader(folder, name, caplog):
    instance, of = new_instance(), backend(name)
    outlet = EngineOutlet(instance, 0, SIZE, timeout_s=5, endpoint="", has_reader=True)
    for step in range(3):
        outlet.send(step, SECTION)
    path = ring_path(instance, 0)
    with caplog.at_level(logging.WARNING):
        outlet.close()
    assert f"3 unread frames stay in {path}" in caplog.text
    for begin in (0, 2):  # the last is acknowledged by the second reader only
        receiver = OutputReceiver(instance, 0, timeout_s=0, backend=of)
        for step in range(begin, 3):
            frame = receiver.receive(5)
            assert frame.step == step and same(frame.sections, [SECTION])
        if not begin:
            receiver.close()
            assert path.exists()
    with pytest.raises(ChannelClosedError, match="closed after 3 frames"):
        receiver.receive(5)
    assert not path.exists()
    receiver.close()


def test_an_engine_that_starts_again_continues_what_its_last_end_left(folder):
    instance = new_instance()
    sender = OutputSender(instance, 0, SIZE, backend=PYTHON)
    sender.send(0, SECTION)
    assert sender.close(keeps_unread=True) == 1
    sender = OutputSender(instance, 0, SIZE, backend=PYTHON)
    assert sender.send(1, SECTION) == 1
    receiver = OutputReceiver(instance, 0, backend=PYTHON)
    assert [receiver.receive(5).step for _ in range(2)] == [0, 1]
    with pytest.raises(NoFrameError):  # and not ChannelClosedError
        receiver.receive(0)
    receiver.acknowledge()
    assert sender.close(keeps_unread=True) == 0
    receiver.close()
    assert not list(folder.iterdir())


def test_without_a_reader_an_engine_leaves_nothing(folder):
    outlet = EngineOutlet(new_instance(), 0, SIZE, timeout_s=5, endpoint="", has_reader=False)
    for step in range(20):
        outlet.send(step, SECTION)
    outlet.close()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", BACKENDS)
def test_after_close_an_end_says_so(folder, name):
    instance, of = new_instance(), backend(name)
    sender = OutputSender(instance, 0, SIZE, backend=of)
    receiver = OutputReceiver(instance, 0, backend=of)
    for step in range(2):  # the second by the fast path
        sender.send(step, SECTION)
        receiver.receive(5)
    sender.close()
    receiver.close()
    for call in (
        lambda: sender.send(2, SECTION),
        lambda: sender.stats,
        lambda: receiver.receive(0),
        receiver.acknowledge,
    ):
        with pytest.raises(ChannelClosedError, match="closed"):
            call()
    assert sender.close() == 0
    receiver.close()


def test_an_end_in_which_a_thread_waits_is_neither_used_nor_unmapped(folder, monkeypatch):
    monkeypatch.setattr(receiver_module, "SLICE_S", 30.0)
    instance, of = new_instance(), backend("native")
    sender, receiver = OutputSender(instance, 0, SIZE, backend=of), OutputReceiver(instance, 0, backend=of)
    sender.send(0, SECTION)
    receiver.receive(5)
    ring, frames = open_ring(sender.path, writable=False), []
    thread = threading.Thread(target=lambda: frames.append(receiver.receive(30)))
    thread.start()
    deadline = time.monotonic() + 30
    while ring.words[Word.READER_WAITS] != 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    for use in (lambda: receiver.receive(1), receiver.close):
        with pytest.raises(RuntimeError, match="a receiver is for one thread"):
            use()
    with pytest.raises(ChannelInUseError):  # what was refused has changed nothing
        OutputReceiver(instance, 0, backend=of)
    sender.send(1, SECTION)
    thread.join(30)
    assert [frame.step for frame in frames] == [1]
    receiver.close()
    ring.close()
    sender.close()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", BACKENDS)
def test_the_second_frame_is_checked_like_the_first(folder, name):
    sender = OutputSender(new_instance(), 0, SIZE, backend=backend(name))
    for step in range(2):
        with pytest.raises(ValueError, match="section of the target"):
            sender.send(step, SECTION._replace(source=Source.DRAFT))
        for impossible in (-1, 2**64):
            with pytest.raises(ValueError, match="unsigned 64-bit number"):
                sender.send(impossible, SECTION)
        sender.send(step, SECTION)
    assert sender.next_sequence == 2
    sender.close()
