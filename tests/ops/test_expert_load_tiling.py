# SPDX-License-Identifier: Apache-2.0
"""The host library builds, and its tiling covers every row once within the unified buffer."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.host_kernels import LIBRARY
from tests.support.host_build import host_library

UNIFIED_BUFFER_BYTES = 188_160
VECTOR_BYTES = 147_712  # kVectorBytes, which counts the histogram in
BAD_ARGUMENT, TOO_MANY_EXPERTS, ROW_TOO_WIDE = 1, 2, 3


class Tiling(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "num_cores",
            "rows_per_core",
            "rows_last_core",
            "rows_per_tile",
            "histogram_bytes",
            "lanes",
            "tile_bytes",
            "top_k",
            "num_experts",
        )
    ]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(host_library(LIBRARY)))


def tile(
    library: ctypes.CDLL, rows: int, top_k: int, experts: int, id_bytes: int, cores: int
) -> tuple[int, Tiling]:
    tiling = Tiling()
    function = library.ascend_ext_tile_expert_load
    function.argtypes = [ctypes.c_int64] * 5 + [ctypes.POINTER(Tiling)]
    return function(rows, top_k, experts, id_bytes, cores, ctypes.byref(tiling)), tiling


@given(
    rows=st.integers(0, 1 << 20),
    top_k=st.integers(1, 64),
    experts=st.integers(1, 4096),
    id_bytes=st.sampled_from([4, 8]),
    cores=st.integers(1, 48),
)
def test_every_row_has_one_core_and_fits(
    library: ctypes.CDLL, rows: int, top_k: int, experts: int, id_bytes: int, cores: int
) -> None:
    error, tiling = tile(library, rows, top_k, experts, id_bytes, cores)
    assert error == 0
    if rows == 0:
        assert tiling.num_cores == 0
        return
    assert 1 <= tiling.num_cores <= cores
    assert (tiling.num_cores - 1) * tiling.rows_per_core + tiling.rows_last_core == rows
    assert 1 <= tiling.rows_last_core <= tiling.rows_per_core
    assert tiling.histogram_bytes % 32 == tiling.tile_bytes % 32 == 0
    assert tiling.tile_bytes >= tiling.rows_per_tile * top_k * id_bytes
    assert tiling.histogram_bytes >= 4 * experts
    assert tiling.lanes == (-(-experts // 64) * 64 if experts <= 512 else 0)
    assert tiling.histogram_bytes >= 4 * tiling.lanes
    taken = VECTOR_BYTES if tiling.lanes else tiling.histogram_bytes
    assert tiling.histogram_bytes <= taken and taken + 2 * tiling.tile_bytes <= UNIFIED_BUFFER_BYTES


@pytest.mark.parametrize(
    ("rows", "experts", "num_cores"),
    [
        (16, 256, 1),
        (256, 256, 1),
        (1024, 256, 2),
        (4096, 256, 7),
        (16384, 256, 25),
        (65536, 256, 48),
        (4096, 512, 13),
        (4096, 1024, 43),
    ],
)
def test_cores_are_given_up_where_their_counters_weigh(
    library: ctypes.CDLL, rows: int, experts: int, num_cores: int
) -> None:
    """Of 48, for int32 ids of K 8; not where a core would count for long, with 512 experts, or one by one."""
    assert tile(library, rows, 8, experts, 4, 48)[1].num_cores == num_cores


@given(
    rows=st.integers(1, 1 << 20),
    top_k=st.integers(1, 64),
    experts=st.integers(1, 256),
    id_bytes=st.sampled_from([4, 8]),
    cores=st.integers(1, 48),
)
def test_counters_are_5_per_cent_of_what_is_moved(
    library: ctypes.CDLL, rows: int, top_k: int, experts: int, id_bytes: int, cores: int
) -> None:
    """Every core but the first one adds E counters, and reads the number of tokens, without need."""
    _, tiling = tile(library, rows, top_k, experts, id_bytes, cores)
    least = rows * top_k * id_bytes + 4 * experts + 4
    assert (tiling.num_cores - 1) * (4 * experts + 4) <= 0.05 * least


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1, 8, 256, 4, 40), BAD_ARGUMENT),
        ((16, 0, 256, 4, 40), BAD_ARGUMENT),
        ((16, 8, 256, 2, 40), BAD_ARGUMENT),
        ((16, 8, 256, 4, 0), BAD_ARGUMENT),
        ((16, 8, 47_041, 4, 40), TOO_MANY_EXPERTS),
        ((16, 8, 1 << 62, 4, 40), TOO_MANY_EXPERTS),
        ((16, 50_000, 256, 4, 40), ROW_TOO_WIDE),
        ((16, 1 << 62, 256, 8, 40), ROW_TOO_WIDE),
    ],
)
def test_impossible_shapes_are_refused(
    library: ctypes.CDLL, arguments: tuple[int, int, int, int, int], error: int
) -> None:
    assert tile(library, *arguments)[0] == error
