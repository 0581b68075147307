# SPDX-License-Identifier: Apache-2.0
"""Two streams on two views of one cache, each of more than 65,536 rows: disjoint as they interleave, or not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.emulator.races.planted import Planted, _side_stream

ROWS = 70_000
View = Callable[[torch.Tensor], torch.Tensor]

# The shape of the cache; the main stream's view; the side stream's, disjoint; and one that meets the first.
VIEWS: dict[str, tuple[tuple[int, ...], View, View, View]] = {
    "every_second_row": ((2 * ROWS, 2), lambda x: x[::2], lambda x: x[1::2], lambda x: x[::4]),
    "halves_of_columns": ((ROWS, 8), lambda x: x[:, :4], lambda x: x[:, 4:], lambda x: x[:, 3:]),
    "keys_and_values": ((ROWS, 2, 3), lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[: ROWS // 2, :, 2]),
    "heads": ((ROWS, 4, 2), lambda x: x[:, 1], lambda x: x[:, 2:], lambda x: x[7:, :2]),
    "thirds_beside_halves": ((6 * ROWS, 1), lambda x: x[::2], lambda x: x[3::6], lambda x: x[::3]),
}


def two_views(correct: bool, name: str) -> bool:
    """Adds to one view on the main stream and to another on a side stream, which do not wait for each other."""
    shape, main_view, disjoint, meeting = VIEWS[name]
    main, side = torch.npu.current_stream(), _side_stream()
    cache = torch.zeros(shape, device="npu")
    torch.npu.synchronize()
    main_view(cache).add_(1)
    with torch.npu.stream(side):
        (disjoint if correct else meeting)(cache).add_(2)
    main.wait_stream(side)
    host, expected = cache.cpu(), torch.zeros(shape)
    main_view(expected).add_(1)
    disjoint(expected).add_(2)
    return torch.equal(host, expected)


def _planted(name: str) -> Planted:
    def run(correct: bool) -> bool:
        return two_views(correct, name)

    run.__name__ = name
    return Planted(run, ("does not wait for", "in two_views"))


VIEW_KINDS = [_planted(name) for name in VIEWS]
