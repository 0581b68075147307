# SPDX-License-Identifier: Apache-2.0
"""Frames to another host (here: through a TCP socket of this one), with the guarantees of the ring."""

import os
import re
import signal
import socket
from contextlib import suppress

import numpy as np
import pytest

from tests.mtp.channels import SIZE, backend, new_instance, random_section, rings_of, same
from vllm_ascend_ext.mtp import zmq_forwarder, zmq_reader
from vllm_ascend_ext.mtp.errors import (
    ChannelClosedError,
    ChannelError,
    ChannelFullError,
    ChannelInUseError,
    NoFrameError,
    WriterGoneError,
)
from vllm_ascend_ext.mtp.frame import Source
from vllm_ascend_ext.mtp.receiver import OutputReceiver
from vllm_ascend_ext.mtp.sender import OutputSender
from vllm_ascend_ext.mtp.zmq_forwarder import RingForwarder

LOCAL = "tcp://127.0.0.1"
SECTIONS = [random_section(np.random.default_rng(run), Source.TARGET, 3, prefix=f"run{run}") for run in range(30)]


@pytest.fixture
def ends():
    """(instance, sender, forwarder, connect)."""
    of, instance, opened = backend("python"), new_instance(), []
    sender = OutputSender(instance, 0, SIZE, timeout_s=20, backend=of)
    forwarder = RingForwarder(instance, 0, f"{LOCAL}:*", timeout_s=5, backend=of)

    def connect(**changes):
        arguments = {"endpoint": forwarder.endpoint, "instance": instance, "replica": 0, "timeout_s": 20} | changes
        opened.append(OutputReceiver.connect(**arguments, backend=of))
        return opened[-1]

    yield instance, sender, forwarder, connect
    sender.close()
    for receiver in opened:
        receiver.close()
    forwarder.close()
    assert forwarder.error is None and not rings_of(instance)


def test_frames_arrive_in_order_and_the_window_is_the_rings(ends):
    _, sender, forwarder, connect = ends
    receiver = connect()
    for step in range(60):  # more than the ring holds: acknowledgements come back
        sender.send(step, SECTIONS[step // 3])
        frame = receiver.receive(20)
        assert frame.sequence == frame.step == step and same(frame.sections, [SECTIONS[step // 3]])
    receiver.acknowledge()
    name = re.escape(forwarder.endpoint)
    with pytest.raises(ChannelFullError, match=rf"forwards to {name}: connected.* 8 frames"):
        for _ in range(20):
            sender.send(60, SECTIONS[0], timeout_s=0.5)
    assert [receiver.receive(20).sequence for _ in range(8)] == list(range(60, 68))
    receiver.acknowledge()
    assert sender.close(20) == 0
    with pytest.raises(ChannelClosedError, match="after 68 frames"):
        receiver.receive(20)


def test_a_new_reader_begins_where_the_last_one_stopped_acknowledging(ends, monkeypatch):
    monkeypatch.setattr(zmq_forwarder, "SILENCE_S", 1.0)
    _, sender, _, connect = ends
    for step in range(6):
        sender.send(step, SECTIONS[step // 3])
    first = connect()
    assert [first.receive(20).step for _ in range(5)] == list(range(5))  # the last is not acknowledged
    with pytest.raises(ChannelInUseError, match="another reader"):
        connect(timeout_s=5)
    first.close()
    second = None
    while second is None:
        with suppress(ChannelInUseError):  # until the first was silent for long enough
            second = connect()
    frame = second.receive(20)
    assert frame.step == 4 and same(frame.sections, [SECTIONS[1]])  # under the roster of frame 3, acknowledged


def test_a_killed_forwarder_is_replaced_and_nothing_is_lost(monkeypatch):
    of, instance = backend("python"), new_instance()
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        endpoint = f"{LOCAL}:{chosen.getsockname()[1]}"
    sender = OutputSender(instance, 0, SIZE, timeout_s=20, backend=of)

    def forward():
        process = os.fork()
        if process == 0:
            RingForwarder(instance, 0, endpoint, backend=of)
            signal.pause()
        return process

    process = forward()
    receiver = OutputReceiver.connect(endpoint, instance, 0, timeout_s=20, backend=of)
    try:
        for step in range(24):
            if step % 8 == 5:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                process = forward()
            sender.send(step, SECTIONS[step // 3])
            assert receiver.receive(30).step == step
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    monkeypatch.setattr(zmq_reader, "SILENCE_S", 0.5)
    with pytest.raises(WriterGoneError, match="nothing was heard of"):
        receiver.receive(20)
    receiver.close()
    sender.close()
    assert not rings_of(instance)


def test_what_a_forwarder_refuses(ends):
    instance, _, forwarder, connect = ends
    with pytest.raises(ChannelError, match=f"this is instance {instance}, replica 0"):
        connect(replica=1)
    with pytest.raises(NoFrameError, match="no forwarder answered"):
        connect(endpoint=f"{LOCAL}:1", timeout_s=0.2)
    with pytest.raises(ChannelInUseError, match="others can only observe"):
        RingForwarder(instance, 0, f"{LOCAL}:*", timeout_s=1)
