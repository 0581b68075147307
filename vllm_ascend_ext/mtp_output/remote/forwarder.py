# SPDX-License-Identifier: Apache-2.0
"""Forwards a ring to a reader on another host. It is the ring's reader, and acknowledges what the remote one does.

So all that must survive a process is in the ring, and the guarantees are the ring's: a forwarder or a sender that
is killed goes on, restarted, where the remote reader's acknowledgements ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import zmq

from vllm_ascend_ext.mtp_output.errors import ChannelError, SequenceError, UnknownRosterError
from vllm_ascend_ext.mtp_output.frames.parts import ROSTER_SEQUENCE_AT, roster_needed, roster_of, split_frame
from vllm_ascend_ext.mtp_output.frames.roster import Roster, read_roster, write_roster
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
from vllm_ascend_ext.mtp_output.ring.backend import Backend, installed_backend
from vllm_ascend_ext.mtp_output.ring.counters import SLICE_S
from vllm_ascend_ext.mtp_output.ring.reader import RingReader


class RingForwarder:
    """Serves one remote reader at a time, in a thread of its own until `close`.

    Args:
        instance, replica: numbers of the ring, which a sender in this or another process has made or will make.
        endpoint: the address to listen at, as ZMQ writes it: ``tcp://10.0.0.1:5600``. Whoever can connect there
            can read the tokens: the address belongs in a network of the cluster's own.
        timeout_s: how long to wait for the ring.

    Attributes:
        endpoint: the address that is listened at, with the port that was chosen if none was given (``:*``).
        error: the error that ended the forwarder early, None while it works.

    Raises:
        NoFrameError, ChannelInUseError, ChannelError: what `RingReader` says.
        ChannelError: the endpoint cannot be bound.
    """

    def __init__(
        self,
        instance: int,
        replica: int,
        endpoint: str,
        *,
        timeout_s: float = 60.0,
        backend: Backend | None = None,
    ) -> None:
        self._identity = instance, replica
        self._ring = RingReader(instance, replica, timeout_s, backend or installed_backend())
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # never more than the ring holds
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._ring.close()
            self._context.destroy()
            raise ChannelError(f"cannot listen on {endpoint}: {error}") from error
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.error: Exception | None = None
        self._reader: bytes | None = None
        self._heard = self._beaten = 0.0
        # sent, newest last; one not newer than the acknowledged
        self._rosters: deque[tuple[int, Roster]] = deque()
        self._is_closing = threading.Event()
        self._say("nobody has connected")
        self._thread = threading.Thread(target=self._run, name="mtp-forwarder", daemon=True)
        self._thread.start()

    def _say(self, what: str) -> None:
        self._ring.label(f" (forwards to {self.endpoint}: {what})")

    def _run(self) -> None:
        try:
            while not self._is_closing.is_set():
                has_frame = self._reader is not None and self._ring.is_published
                if has_frame:
                    self._forward()
                # with nothing to forward, sleep on the ring; a remote reader's words wait a slice at most
                elif not self._socket.poll(0):
                    self._ring.sleep(SLICE_S if self._reader is None else min(SLICE_S, 0.02))
                while self._socket.poll(0):
                    parts = self._socket.recv_multipart()
                    if len(parts) == 2:  # anybody can connect, and say anything
                        self._hear(*parts)
                self._keep_company()
        except Exception as error:
            self.error = error
            self._say(f"failed: {error}")
        finally:
            self._context.destroy()
            self._ring.close()

    def _hear(self, reader: bytes, message: bytes) -> None:
        kind = message[0] if message else 0
        if kind == Kind.HELLO and len(message) == HELLO.size:
            self._welcome(reader, *HELLO.unpack(message)[1:])
        elif reader != self._reader:
            self._socket.send_multipart([reader, bytes([Kind.WHO])])
        elif kind == Kind.ACKNOWLEDGE and len(message) == SEQUENCE.size:
            self._heard = time.monotonic()
            self._acknowledge(SEQUENCE.unpack(message)[1])

    def _welcome(self, reader: bytes, version: int, instance: int, replica: int, first: int) -> None:
        refusal = None
        acknowledged = self._ring.acknowledged
        if version != VERSION or (instance, replica) != self._identity:
            refusal = f"this is instance {self._identity[0]}, replica {self._identity[1]}, protocol {VERSION}"
        elif self._reader not in (None, reader) and time.monotonic() - self._heard < SILENCE_S:
            refusal = "another reader is connected"
        elif first != FROM_ACKNOWLEDGED and not acknowledged <= first <= self._ring.num_published:
            refusal = f"frames {acknowledged} to {self._ring.num_published} are here, and not {first}"
        if refusal is not None:
            self._socket.send_multipart([reader, bytes([Kind.REFUSED]) + refusal.encode()])
            return
        self._reader, self._heard = reader, time.monotonic()
        self._ring.sequence = acknowledged
        while first != FROM_ACKNOWLEDGED and self._ring.sequence < first:
            self._next_frame()  # which the forwarder before us sent, and whose rosters died with it
        roster_sequence, blob = self._roster_before(self._ring.sequence)
        welcome = WELCOME.pack(Kind.WELCOME, self._ring.sequence, roster_sequence) + blob
        self._socket.send_multipart([reader, welcome])
        self._say("connected")

    def _roster_before(self, sequence: int) -> tuple[int, bytes]:
        """Returns the roster in force at frame `sequence`; nothing at the very first."""
        for of, roster in reversed(self._rosters):
            if of < sequence:
                return of, write_roster(roster)
        return self._ring.newest_kept_roster(sequence) or (0, b"")

    def _forward(self) -> None:
        data = self._next_frame()
        self._socket.send_multipart([self._reader or b"", bytes([Kind.FRAME]) + data])

    def _next_frame(self) -> bytes:
        """Reads frame `sequence` of the ring, notes the roster that it carries, and goes on."""
        sequence, data = self._ring.sequence, self._ring.read(self._checked)
        parts = split_frame(data)
        if parts.roster_sequence == sequence and (not self._rosters or self._rosters[-1][0] < sequence):
            needed = roster_needed(data, parts)
            known = () if needed is None else self._known_roster(needed)
            self._rosters.append((sequence, roster_of(data, parts, known)))
        self._ring.sequence = sequence + 1
        return data

    def _known_roster(self, sequence: int) -> Roster:
        """Returns the roster that frame `sequence` carried."""
        for of, roster in reversed(self._rosters):
            if of == sequence:
                return roster
        blob = self._ring.kept_roster(sequence)
        if blob is None:
            raise UnknownRosterError(ROSTER_SEQUENCE_AT, sequence)
        return read_roster(blob)

    def _checked(self, data: bytes) -> bytes:
        sequence = split_frame(data).sequence
        if sequence != self._ring.sequence:
            raise SequenceError(f"frame {sequence} where frame {self._ring.sequence} must be: a second sender?")
        return data

    def _acknowledge(self, sequence: int) -> None:
        if not self._ring.acknowledged < sequence <= self._ring.sequence:
            return  # said already, or before a reconnection
        while len(self._rosters) > 1 and self._rosters[1][0] < sequence:
            self._rosters.popleft()
        if self._rosters and self._rosters[0][0] < sequence:
            self._ring.keep_roster(*self._rosters[0])
        self._ring.acknowledge(sequence)

    def _keep_company(self) -> None:
        """Tells the reader that we live, and notices that it does not."""
        now = time.monotonic()
        if self._reader is None:
            return
        if now - self._heard > SILENCE_S:
            self._reader = None
            self._say(f"its reader has been silent for {SILENCE_S:g} s")
        elif now - self._beaten > BEAT_S:
            self._beaten = now
            ring, state = self._ring, self._writer_state()  # the state first: nothing is published after an end
            beat = BEAT.pack(Kind.BEAT, state, ring.num_published, ring.writer.pid, ring.sequence)
            self._socket.send_multipart([self._reader, beat])

    def _writer_state(self) -> WriterState:
        if self._ring.is_closed_by_writer:
            return WriterState.CLOSED
        return WriterState.ALIVE if self._ring.writer.is_alive else WriterState.DEAD

    def close(self) -> None:
        """Stops forwarding; what is not acknowledged stays in the ring."""
        self._is_closing.set()
        self._thread.join()
