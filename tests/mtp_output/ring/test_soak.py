# SPDX-License-Identifier: Apache-2.0
"""Both ends killed at random; `python -m tests.mtp_output.ring.soak` does it for as long as one likes."""

import pytest

from tests.mtp_output.ring.rings import BACKENDS, backend, own_folder
from tests.mtp_output.ring.soak import soak
from tests.support.long_tables import long_table


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("num_frames", [2_000, pytest.param(100_000, marks=long_table)])
def test_nothing_is_lost_or_twice_when_either_end_is_killed(name, num_frames):
    min_frames = max(num_frames // 1000, 20)  # a busy machine must not make this endless
    with own_folder():
        summary = soak(num_frames, backend(name), seed=1, mean_life_s=0.02, deadline_s=1200, min_frames=min_frames)
    assert (summary.frames, summary.wrong, summary.left) == (num_frames, 0, [])
    assert summary.writer_kills + summary.reader_kills > 0
