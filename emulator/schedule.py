# SPDX-License-Identifier: Apache-2.0
"""Sets the seeded delays of this process, from Python."""

from __future__ import annotations

import os

from . import control

DEFAULT_DELAY_US = 200


def set_seed(seed: int, longest_delay_us: int | None = None) -> None:
    """Delays streams and host as ``seed`` says from now on; 0 is no delays.

    Without ``longest_delay_us`` the longest delay is EMULATOR_DELAY_US's, or 200 microseconds.
    """
    if longest_delay_us is None:
        longest_delay_us = int(os.environ.get("EMULATOR_DELAY_US", DEFAULT_DELAY_US))
    control.library().EmulatorSetSchedule(seed, longest_delay_us)
