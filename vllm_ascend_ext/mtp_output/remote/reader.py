# SPDX-License-Identifier: Apache-2.0
"""Reads a ring from another host, over ZMQ through its forwarder, as `RingReader` does on the same host."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

import zmq

from vllm_ascend_ext.mtp_output.errors import (
    ChannelClosedError,
    ChannelError,
    ChannelInUseError,
    FrameError,
    NoFrameError,
    WriterGoneError,
)
from vllm_ascend_ext.mtp_output.frames.parts import split_frame
from vllm_ascend_ext.mtp_output.frames.roster import Roster
from vllm_ascend_ext.mtp_output.remote.messages import (
    BEAT,
    BEAT_S,
    FROM_ACKNOWLEDGED,
    HELLO,
    SEQUENCE,
    SILENCE_S,
    VERSION,
    WELCOME,
    Kind,
    WriterState,
)
from vllm_ascend_ext.printable import printable

_Parsed = TypeVar("_Parsed")


class ZmqReader:
    """Connects to a forwarder; frames come in order, each once, from the first that was not acknowledged.

    Attributes:
        sequence: number of the frame that comes next.
        acknowledged: the first frame that was not acknowledged.

    Raises:
        NoFrameError: no forwarder answered within `timeout_s` seconds.
        ChannelInUseError: it serves another reader.
        ChannelError: it forwards something else.
    """

    def __init__(self, endpoint: str, instance: int, replica: int, timeout_s: float) -> None:
        self._endpoint, self._identity = endpoint, (instance, replica)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, b"R" + os.urandom(15))
        self._socket.setsockopt(zmq.RCVHWM, 0)  # never more than the ring holds
        self._socket.setsockopt(zmq.LINGER, 200)  # milliseconds, for the last acknowledgement
        # of a reader that is dropped, Python may end the context before the socket, and wait for it for ever
        self._end = weakref.finalize(self, _end, self._socket, self._context)
        self._frame: bytes | None = None
        self._roster: tuple[int, bytes] | None = None
        self._is_welcome = False
        self._heard = self._listened = time.monotonic()
        self._spoken = 0.0
        self.sequence, self.acknowledged = FROM_ACKNOWLEDGED, FROM_ACKNOWLEDGED
        try:
            self._socket.connect(endpoint)
            self._await_welcome(timeout_s)
        except zmq.ZMQError as error:
            self.close()
            raise ChannelError(f"cannot connect to {endpoint}: {error}") from error
        except ChannelError:
            self.close()
            raise
        self.acknowledged = self.sequence

    def _await_welcome(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._is_welcome:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise NoFrameError(f"no forwarder answered at {self._endpoint} within {timeout_s:g} s")
            self._show_life()
            self._hear(min(left_s, BEAT_S))

    def wait(self, timeout_s: float) -> None:
        """Waits until frame `sequence` is there.

        Raises:
            NoFrameError: it did not come within `timeout_s` seconds.
            ChannelClosedError: it never will, the writer has closed the channel.
            WriterGoneError: the writer died, or nothing was heard of the forwarder for `SILENCE_S` seconds.
            ChannelError: the forwarder refuses to go on.
        """
        begin = time.monotonic()
        # while nobody listened there was no silence; who polls often has listened
        self._heard += max(begin - self._listened - BEAT_S, 0.0)
        try:
            while self._frame is None:
                self._show_life()
                if self._hear(0):  # all that was said is heard before anything is judged
                    continue
                now = time.monotonic()
                if now - self._heard > SILENCE_S:
                    raise WriterGoneError(f"nothing was heard of {self._endpoint} for {SILENCE_S:g} s")
                left_s = begin + timeout_s - now
                if left_s <= 0:
                    raise NoFrameError(f"{self._endpoint} sent no frame {self.sequence} for {timeout_s:g} s")
                self._hear(min(left_s, BEAT_S))
        finally:
            self._listened = time.monotonic()

    def _show_life(self) -> None:
        now = time.monotonic()
        if now - self._spoken <= BEAT_S:
            return
        self._spoken = now
        if self._is_welcome:
            self._socket.send(SEQUENCE.pack(Kind.ACKNOWLEDGE, self.acknowledged))
        else:
            self._say_hello()

    def _say_hello(self) -> None:
        self._is_welcome = False
        self._spoken = time.monotonic()
        self._socket.send(HELLO.pack(Kind.HELLO, VERSION, *self._identity, self.sequence))

    def _hear(self, timeout_s: float) -> bool:
        """Takes in a message if one comes within `timeout_s` seconds; returns whether one came."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return False
        message = self._socket.recv()
        self._heard = time.monotonic()
        kind = message[0] if message else 0
        if kind == Kind.FRAME and self._is_welcome:
            self._take(message[1:])
        elif kind == Kind.WELCOME and len(message) >= WELCOME.size and not self._is_welcome:
            _, self.sequence, roster_sequence = WELCOME.unpack_from(message)
            self._roster = roster_sequence, message[WELCOME.size :]
            self._is_welcome = True
        elif kind == Kind.BEAT and len(message) == BEAT.size and self._is_welcome:
            self._judge(*BEAT.unpack(message)[1:])
        elif kind == Kind.WHO and self._is_welcome:
            self._say_hello()
        elif kind == Kind.REFUSED:
            text = message[1:].decode(errors="replace")
            kind_of_error = ChannelInUseError if "another reader" in text else ChannelError
            raise kind_of_error(f"{self._endpoint} refuses: {printable(text)}")
        return True

    def _take(self, data: bytes) -> None:
        try:
            sequence = split_frame(data).sequence
        except FrameError:
            self._say_hello()  # what the ring has may be whole
            raise
        if sequence == self.sequence:
            self._frame = data
        elif sequence > self.sequence:
            self._say_hello()  # something was lost on the way: all again from what is missing

    def _judge(self, state: int, num_published: int, process: int, next_sequence: int) -> None:
        if next_sequence > self.sequence:
            self._say_hello()  # the last frames were lost: what is sent before a beat comes before it
            return
        if num_published > self.sequence or state == WriterState.ALIVE:
            return
        if state == WriterState.CLOSED:
            raise ChannelClosedError(f"{self._endpoint}: the channel was closed after {self.sequence} frames")
        raise WriterGoneError(f"{self._endpoint}: writer process {process} died after {self.sequence} frames")

    def read(self, parse: Callable[[bytes], _Parsed]) -> _Parsed:
        """Returns what `parse` makes of frame `sequence`, which `wait` has waited for."""
        if self._frame is None:
            raise FrameError(0, "no frame is here")
        frame, self._frame = self._frame, None
        try:
            return parse(frame)
        except FrameError:
            self._say_hello()
            raise

    def kept_roster(self, sequence: int) -> bytes | None:
        """Returns the roster of frame `sequence`, if it is the one that the forwarder began with."""
        return self._roster[1] if self._roster is not None and self._roster[0] == sequence else None

    def keep_roster(self, sequence: int, roster: Roster) -> None:
        """Does nothing: the forwarder keeps rosters."""

    def acknowledge(self, sequence: int) -> None:
        """Gives up all frames before `sequence`."""
        self.acknowledged = sequence
        self._spoken = time.monotonic()
        self._socket.send(SEQUENCE.pack(Kind.ACKNOWLEDGE, sequence))

    def close(self) -> None:
        self._end()


def _end(socket: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]]) -> None:
    socket.close()
    context.term()
