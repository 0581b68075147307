# SPDX-License-Identifier: Apache-2.0
"""Frames to another host (here: through a TCP socket of this one), with the guarantees of the ring."""

import gc
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import zmq

from tests.mtp_output.ring.rings import SIZE, backend, new_instance, random_section, rings_of, same
from vllm_ascend_ext.mtp_output.errors import (
    ChannelClosedError,
    ChannelError,
    ChannelFullError,
    ChannelInUseError,
    FrameError,
    NoFrameError,
    WriterGoneError,
)
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.remote import forwarder as zmq_forwarder
from vllm_ascend_ext.mtp_output.remote import reader as zmq_reader
from vllm_ascend_ext.mtp_output.remote.forwarder import RingForwarder
from vllm_ascend_ext.mtp_output.sender import OutputSender

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


@contextmanager
def killable_forwarder(instance):
    """(endpoint, restart): a forwarder in a process of its own, which `restart` kills and replaces."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        endpoint = f"{LOCAL}:{chosen.getsockname()[1]}"
    processes = []

    def kill():
        os.kill(processes[-1], signal.SIGKILL)
        os.waitpid(processes[-1], 0)

    def restart():
        if processes:
            kill()
        processes.append(os.fork())
        if processes[-1] == 0:
            RingForwarder(instance, 0, endpoint, backend=backend("python"))
            signal.pause()

    restart()
    try:
        yield endpoint, restart
    finally:
        kill()


def test_a_killed_forwarder_is_replaced_and_nothing_is_lost(monkeypatch):
    of, instance = backend("python"), new_instance()
    sender = OutputSender(instance, 0, SIZE, timeout_s=20, backend=of)
    with killable_forwarder(instance) as (endpoint, restart):
        receiver = OutputReceiver.connect(endpoint, instance, 0, timeout_s=20, backend=of)
        for step in range(24):
            if step % 8 == 5:
                restart()
            sender.send(step, SECTIONS[step // 3])
            assert receiver.receive(30).step == step
    monkeypatch.setattr(zmq_reader, "SILENCE_S", 0.5)
    with pytest.raises(WriterGoneError, match="nothing was heard of"):
        for _ in range(100):  # however short the waits are
            with suppress(NoFrameError):
                receiver.receive(0.2)
    receiver.close()
    sender.close()
    assert not rings_of(instance)


def test_the_roster_of_a_frame_that_only_the_killed_forwarder_sent_is_kept():
    """The reader has frame 3 and its roster, the ring knows nothing of it: the next forwarder must."""
    of, instance = backend("python"), new_instance()
    sender = OutputSender(instance, 0, SIZE, timeout_s=20, backend=of)
    for step in range(4):
        sender.send(step, SECTIONS[step // 3])
    with killable_forwarder(instance) as (endpoint, restart):
        receiver = OutputReceiver.connect(endpoint, instance, 0, timeout_s=20, backend=of)
        assert [receiver.receive(20).step for _ in range(4)] == [0, 1, 2, 3]
        restart()  # before frame 3 is acknowledged
        sender.send(4, SECTIONS[1])
        assert receiver.receive(20).step == 4
        for _ in range(100):  # who waits repeats what it has acknowledged
            with suppress(NoFrameError):
                receiver.receive(0.2)
            if not sender.stats.occupancy:
                break
        receiver.close()
        restart()  # forgets that it had a reader
        sender.send(5, SECTIONS[1])
        receiver = OutputReceiver.connect(endpoint, instance, 0, timeout_s=20, backend=of)
        try:
            frame = receiver.receive(20)
        finally:
            receiver.close()
            sender.close()
    assert frame.step == 5 and same(frame.sections, [SECTIONS[1]])


def test_a_reader_that_pauses_goes_on(ends, monkeypatch):
    for module in (zmq_forwarder, zmq_reader):
        monkeypatch.setattr(module, "SILENCE_S", 1.0)
        monkeypatch.setattr(module, "BEAT_S", 0.1)
    _, sender, _, connect = ends
    receiver = connect()
    for step in range(4):
        sender.send(step, SECTIONS[step // 3])
        assert receiver.receive(20).step == step
        time.sleep(2.5 * (step % 2))


class Proxy:
    """Passes TCP on to `endpoint`; `lose` and `damage` say what becomes of the next frame to the reader.

    A frame that is lost is followed by the end of the connection, which the peers then make anew.
    """

    def __init__(self, endpoint):
        self._to = int(endpoint.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"{LOCAL}:{self._listener.getsockname()[1]}"
        self.lose = self.damage = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                reader = self._listener.accept()[0]
                forwarder = socket.create_connection(("127.0.0.1", self._to))
                for ends in ((reader, forwarder, False), (forwarder, reader, True)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source, sink, is_downstream):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                is_frame = is_downstream and len(data) > 100  # beats are short
                if is_frame and self.lose:
                    self.lose = False
                    break
                if is_frame and self.damage:
                    self.damage = False
                    data = data[:50] + bytes([data[50] ^ 1]) + data[51:]
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


@pytest.fixture
def proxied(ends):
    """(sender, receiver, proxy); frame 0 has gone through."""
    _, sender, forwarder, connect = ends
    proxy = Proxy(forwarder.endpoint)
    receiver = connect(endpoint=proxy.endpoint)
    sender.send(0, SECTIONS[0])
    assert receiver.receive(20).step == 0
    yield sender, receiver, proxy
    proxy.close()


def test_a_last_frame_that_a_broken_connection_lost_is_asked_for_again(proxied):
    sender, receiver, proxy = proxied
    proxy.lose = True
    sender.send(1, SECTIONS[0])  # and nothing follows that would show a gap
    assert receiver.receive(15).step == 1
    assert not proxy.lose


def test_a_last_frame_that_was_damaged_on_its_way_is_asked_for_again(proxied):
    sender, receiver, proxy = proxied
    proxy.damage = True
    sender.send(1, SECTIONS[0])
    with pytest.raises(FrameError):
        receiver.receive(15)
    assert receiver.receive(15).step == 1


def test_strangers_do_not_end_a_forwarder(ends):
    _, sender, forwarder, connect = ends
    receiver, context = connect(), zmq.Context()
    for kind in (zmq.REQ, zmq.DEALER):
        stranger = context.socket(kind)
        stranger.connect(forwarder.endpoint)
        stranger.send_multipart([b"x"] * 3)
        if kind == zmq.DEALER:
            stranger.send(b"")
            assert stranger.poll(20_000) and stranger.recv() == bytes([zmq_forwarder.Kind.WHO])
    sender.send(0, SECTIONS[0])
    assert receiver.receive(20).step == 0 and forwarder.error is None
    context.destroy(linger=0)


def test_what_a_forwarder_refuses(ends):
    instance, _, forwarder, connect = ends
    with pytest.raises(ChannelError, match=f"this is instance {instance}, replica 0"):
        connect(replica=1)
    with pytest.raises(NoFrameError, match="no forwarder answered"):
        connect(endpoint=f"{LOCAL}:1", timeout_s=0.2)
    with pytest.raises(ChannelInUseError, match="others can only observe"):
        RingForwarder(instance, 0, f"{LOCAL}:*", timeout_s=1)


def test_a_reader_that_nobody_closed_does_not_wait_for_ever(ends):
    """Python may end its context first, which waits for the socket."""
    instance, _, forwarder, _ = ends

    def drop():
        reader = zmq_reader.ZmqReader(forwarder.endpoint, instance, 0, 20)
        reader.itself = reader  # as in the frames of an error's traceback
        del reader
        gc.collect()

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
