# SPDX-License-Identifier: Apache-2.0
"""What a reader of the ring does with frames that are damaged, unfinished or another sender's."""

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
    same,
)
from vllm_ascend_ext.mtp_output.errors import (
    FrameError,
    SequenceError,
)
from vllm_ascend_ext.mtp_output.frames.frame import FrameWriter, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.file import Word
from vllm_ascend_ext.mtp_output.ring.folder import open_ring, ring_path
from vllm_ascend_ext.mtp_output.ring.writer import RingWriter
from vllm_ascend_ext.mtp_output.sender import OutputSender

SECTION = random_section(np.random.default_rng(0), Source.TARGET, 4)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_damaged_frame_is_not_acknowledged(name):
    with open_pair(backend(name)) as (sender, receiver, _):
        for step in range(3):
            sender.send(step, SECTION)
        receiver.receive(1)
        ring = open_ring(sender.path, writable=True)
        place = ring.words[ring.descriptor(1)] + 70
        ring.frames[place] ^= 1
        for _ in range(2):
            with pytest.raises(FrameError, match="checksum"):
                receiver.receive(1)
        assert ring.words[Word.ACKNOWLEDGED] == 1
        ring.frames[place] ^= 1
        assert receiver.receive(1).step == 1
        ring.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_frame_that_is_seen_before_it_is_whole_settles(name):
    """What a host with weak memory order may show: the counter first, then the frame."""
    with open_pair(backend(name)) as (sender, receiver, _):
        for step in range(2):
            sender.send(step, SECTION)
        receiver.receive(1)
        ring = open_ring(sender.path, writable=True)
        place = ring.words[ring.descriptor(1)]
        whole = bytes(ring.frames[place : place + 100])
        ring.frames[place : place + 100] = bytes(100)

        def arrive():
            time.sleep(0.1)
            ring.frames[place : place + 100] = whole

        thread = threading.Thread(target=arrive)
        thread.start()
        assert same(receiver.receive(1).sections, [SECTION])
        thread.join()
        ring.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_what_was_not_published_was_never_there(name):
    instance, of = new_instance(), backend(name)

    def job():
        sender = OutputSender(instance, 0, SIZE, backend=of)
        sender.send(0, SECTION)
        ring = open_ring(ring_path(instance, 0), writable=True)
        at = ring.descriptor(1)
        ring.words[at], ring.words[at + 1] = 8192, 77  # torn: frame 1 was being written
        ring.frames[4096:8192] = b"x" * 4096

    in_a_process_that_is_killed(job)
    receiver = OutputReceiver(instance, 0, backend=of)
    assert receiver.receive(1).step == 0
    sender = OutputSender(instance, 0, SIZE, backend=of)
    assert sender.send(1, SECTION) == 1
    assert receiver.receive(1).step == 1
    sender.close()
    receiver.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_second_sender_into_one_ring_is_noticed(name):
    """The duplicates of expert-parallel ranks: frames of two senders in one queue."""
    of = backend(name)
    with open_pair(of) as (sender, receiver, _):
        sender.send(0, SECTION)
        assert receiver.receive(1).step == 0
        _, instance, _ = sender.path.name.split("-")
        writer = FrameWriter(int(instance), 1, of.rows)  # replica 1 writes as replica 0
        ring: RingWriter = sender._ring
        at = ring.reserve(writer.bound((SECTION,)), 0)
        ring.publish(writer.write(ring.frames, at, 1, 1, (SECTION,)))
        with pytest.raises(SequenceError, match="replica 1, where frame 1 of .* a second sender"):
            receiver.receive(1)
