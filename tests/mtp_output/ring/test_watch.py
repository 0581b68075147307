# SPDX-License-Identifier: Apache-2.0
"""How full a ring is, seen from outside while its writer is blocked."""

from __future__ import annotations

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
)
from vllm_ascend_ext.mtp_output.errors import ReaderGoneError
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.watch import RingLevel, ring_level
from vllm_ascend_ext.mtp_output.sender import OutputSender

SECTION = random_section(np.random.default_rng(0), Source.TARGET, 4)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_blocked_writer_is_seen_while_it_is_blocked(name: str) -> None:
    instance, of = new_instance(), backend(name)
    with own_folder():
        assert ring_level(instance, 0) is None
        sender = OutputSender(instance, 0, SIZE, backend=of)
        assert ring_level(instance, 0) == RingLevel(0, 8, 0.0)
        for step in range(8):
            sender.send(step, SECTION)
        assert ring_level(instance, 0) == RingLevel(8, 8, 0.0)

        def block() -> None:
            with pytest.raises(ReaderGoneError):
                sender.send(8, SECTION, timeout_s=1.0)

        thread = threading.Thread(target=block)
        thread.start()
        time.sleep(0.3)
        first = ring_level(instance, 0)
        time.sleep(0.3)
        second = ring_level(instance, 0)
        thread.join()
        last = ring_level(instance, 0)
        assert first is not None and second is not None and last is not None
        assert 0.1 < first.blocked_s < second.blocked_s < last.blocked_s
        assert last.blocked_s == pytest.approx(sender.stats.blocked_s, abs=1e-3) and last.blocked_s < 5
        assert ring_level(instance, 0) == last  # it does not wait any more
        receiver = OutputReceiver(instance, 0, backend=of)
        receiver.receive(1)
        receiver.acknowledge()
        level = ring_level(instance, 0)
        assert level is not None and level.occupancy == 7
        receiver.close()
        sender.close()
        assert ring_level(instance, 0) is None


def test_what_a_dead_writer_left_is_nobodys_level() -> None:
    instance, of = new_instance(), backend("python")

    def die_blocked() -> None:
        sender = OutputSender(instance, 0, SIZE, backend=of)
        for step in range(8):
            sender.send(step, SECTION)
        threading.Thread(target=lambda: sender.send(8, SECTION, timeout_s=60), daemon=True).start()
        time.sleep(0.2)

    with own_folder():
        in_a_process_that_is_killed(die_blocked)
        assert ring_level(instance, 0) is None
        sender = OutputSender(instance, 0, SIZE, backend=of)
        assert ring_level(instance, 0) == RingLevel(8, 8, 0.0)
        sender.close()
