# SPDX-License-Identifier: Apache-2.0
"""Races that the checker finds in vllm-ascend 0.23.0.post1 itself; a failure here may mean that one is mended."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize("mended", [False, True])
def test_random_sample_reuses_its_noise(mended: bool) -> None:
    """`random_sample` draws its noise on a side stream that never waits for the main one.

    The noise tensor is the side stream's, so that the allocator hands its memory to the next call, which
    overwrites it while the division of this call may still be pending. With asynchronous scheduling the host is a
    step ahead of the device, and nothing else orders the two: tokens may then be drawn with the noise of another
    step, or with half-made noise, and a request with a seed may not repeat.
    """
    from vllm_ascend.sample.sampler import random_sample
    from vllm_ascend.utils import global_stream

    from emulator import races

    logits = torch.randn(6, 1024, device="npu")

    def two_steps() -> None:
        for _ in range(2):
            if mended:
                global_stream().wait_stream(torch.npu.current_stream())
            random_sample(logits.softmax(-1), {})

    if mended:
        two_steps()
        assert races.reports() == []
    else:
        with races.expect("handed out again", r"sampler\.py:\d+ in random_sample"):
            two_steps()
