# SPDX-License-Identifier: Apache-2.0
"""A reader that throws frames away, for a sender that only observers look at: without one a ring runs full."""

from __future__ import annotations

import logging
import threading

from vllm_ascend_ext.mtp.errors import ChannelClosedError, ChannelError, FrameError, NoFrameError
from vllm_ascend_ext.mtp.native import Backend
from vllm_ascend_ext.mtp.receiver import OutputReceiver

_WAIT_S = 1.0

_logger = logging.getLogger(__name__)


class DiscardingReader:
    """Acknowledges all frames of a sender of this process, on a thread, until the sender closes.

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
                    self._receiver.receive(_WAIT_S)
                    self._receiver.acknowledge()
                except NoFrameError:
                    continue
        except ChannelClosedError:
            self._receiver.close()
        except (ChannelError, FrameError):  # the sender then finds its ring full, and ends the engine
            _logger.exception("ascend_ext.mtp_output: frames are not discarded any more")
