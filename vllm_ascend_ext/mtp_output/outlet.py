# SPDX-License-Identifier: Apache-2.0
"""Sends an engine's frames out: into a ring, and from it to a reader of this machine, one of another, or nobody.

The ring holds what is not acknowledged in every case, so the guarantees are always the ring's.
"""

from __future__ import annotations

import logging
import re
import threading
import time

from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, ChannelError, FrameError, NoFrameError
from vllm_ascend_ext.mtp_output.frames.section import Section
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.backend import NO_CPP_NOTE, Backend, installed_backend
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender, SenderStats

_logger = logging.getLogger(__name__)
_ENDPOINT = re.compile(r"tcp://(?P<host>[^:\s]+):(?P<port>[1-9]\d{0,4})")
_DISCARD_WAIT_S = 1.0
_FAREWELL_S = 5.0  # that a remote reader has for the last frames when the engine ends


def replica_endpoint(endpoint: str, replica: int) -> str:
    """Returns the address of `replica`, at PORT + `replica`, where replica 0 has tcp://HOST:PORT.

    Raises:
        ValueError: another form, or no such port.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or int(match["port"]) + replica > 65535:
        raise ValueError(f"endpoint {endpoint!r}: expected tcp://HOST:PORT with room for replica {replica}'s port")
    return f"tcp://{match['host']}:{int(match['port']) + replica}"


class DiscardingReader:
    """Acknowledges all frames of a sender of this process, on a thread, until the sender closes: without it a ring
    that only observers look at runs full.

    Raises:
        ChannelInUseError: the ring has a reader.
    """

    def __init__(self, instance: int, replica: int, backend: Backend) -> None:
        self._receiver = OutputReceiver(instance, replica, backend=backend)
        threading.Thread(target=self._run, name="mtp output discard", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._receiver.receive(_DISCARD_WAIT_S)
                    self._receiver.acknowledge()
                except NoFrameError:
                    continue
        except ChannelClosedError:
            self._receiver.close()
        except (ChannelError, FrameError):  # the sender then finds its ring full, and ends the engine
            _logger.exception("ascend_ext.mtp_output: frames are not discarded any more")


class EngineOutlet:
    """Sends the frames of one replica.

    Args:
        size: size of the ring.
        timeout_s: how long a full ring may block `send`.
        endpoint: the address at which a reader on another host connects (of replica 0); "" for readers of this
            machine.
        has_reader: whether a reader process will acknowledge; otherwise frames are given up once sent.

    Raises:
        ValueError: see `replica_endpoint`.
        ChannelError: the ring cannot be made, or nobody can listen at the endpoint.
        OSError: what `native.installed_backend` says.
    """

    def __init__(
        self, instance: int, replica: int, size: RingSize, *, timeout_s: float, endpoint: str, has_reader: bool
    ) -> None:
        address = replica_endpoint(endpoint, replica) if endpoint else ""
        backend = installed_backend()
        if not backend.module:
            _logger.info("ascend_ext.mtp_output: %s", NO_CPP_NOTE)
        self._sender = OutputSender(instance, replica, size, timeout_s=timeout_s, backend=backend)
        self._forwarder, self._has_reader = None, has_reader
        try:
            if not has_reader:
                DiscardingReader(instance, replica, backend)
            elif address:
                from vllm_ascend_ext.mtp_output.remote.forwarder import (
                    RingForwarder,  # pyzmq is for other hosts only
                )

                self._forwarder = RingForwarder(instance, replica, address, backend=backend)
        except BaseException:
            self._sender.close()
            raise

    def send(self, step: int, target: Section, draft: Section | None = None, /) -> int:
        """Sends one frame as `OutputSender.send` does."""
        if self._forwarder is not None and self._forwarder.error is not None:
            raise self._forwarder.error
        return self._sender.send(step, target, draft)

    @property
    def stats(self) -> SenderStats:
        """Returns the sender's statistics."""
        return self._sender.stats

    def close(self) -> None:
        """Closes the ring; no frame follows. A remote reader that is connected gets the last ones.

        Where somebody must read them, a ring with unread frames stays until he has; a warning counts them.
        """
        wait_s = 0.0 if self._forwarder is None else _FAREWELL_S  # a local reader does not end with this process
        path, num_unread = self._sender.path, self._sender.close(wait_s, keeps_unread=self._has_reader)
        if num_unread and self._has_reader:
            _logger.warning("ascend_ext.mtp_output: %d unread frames stay in %s for its reader", num_unread, path)
        if self._forwarder is not None:
            from vllm_ascend_ext.mtp_output.remote.messages import BEAT_S

            time.sleep(2 * BEAT_S)  # the forwarder tells its reader of the end
            self._forwarder.close()
