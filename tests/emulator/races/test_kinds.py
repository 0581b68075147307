# SPDX-License-Identifier: Apache-2.0
"""Kinds of races and of orders that a checker may get wrong: wrong programs are reported, their twins never.

Each is tried a few times here, and nightly 100 times wrong without delays and under 1,000 seeds right.
"""

from __future__ import annotations

import pytest

from tests.emulator.races.chosen.planted_blocks import BLOCK_KINDS
from tests.emulator.races.chosen.planted_rows import ROW_KINDS
from tests.emulator.races.chosen.planted_uncertain import UNCERTAIN
from tests.emulator.races.planted import Planted
from tests.emulator.races.planted_files import FILES
from tests.emulator.races.planted_pinned import PINNED
from tests.emulator.races.planted_queries import QUERIES
from tests.emulator.races.planted_registered import REGISTERED
from tests.emulator.races.planted_views import VIEW_KINDS
from tests.emulator.races.planted_within import WITHIN
from tests.support.long_tables import long_table

pytestmark = pytest.mark.emulator

KINDS = [*PINNED, *QUERIES, *VIEW_KINDS, *WITHIN, *REGISTERED, *FILES]
KINDS += [*ROW_KINDS, *BLOCK_KINDS, *UNCERTAIN]
FEW, RUNS, SEEDS = 3, 100, 1000

each_kind = pytest.mark.parametrize("planted", KINDS, ids=lambda planted: planted.name)


def check_reported(planted: Planted, runs: int) -> None:
    from emulator import races, schedule

    schedule.set_seed(0)  # no delays
    for _ in range(runs):
        with races.expect(*planted.report):
            planted.run(False)


def check_clean(planted: Planted, seeds: range) -> None:
    from emulator import races, schedule

    try:
        for seed in seeds:
            schedule.set_seed(seed)
            right = planted.run(True)
            assert not races.reports(), f"seed {seed}"
            assert right, f"wrong under seed {seed}"
    finally:
        schedule.set_seed(0)


@each_kind
def test_wrong_program_is_reported(planted: Planted) -> None:
    check_reported(planted, FEW)


@each_kind
def test_right_twin_is_clean(planted: Planted) -> None:
    check_clean(planted, range(1, FEW + 1))


@long_table
@each_kind
def test_wrong_program_is_reported_every_time(planted: Planted) -> None:
    check_reported(planted, RUNS)


@long_table
@each_kind
def test_right_twin_is_clean_under_all_seeds(planted: Planted) -> None:
    check_clean(planted, range(1, SEEDS + 1))
