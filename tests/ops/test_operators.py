# SPDX-License-Identifier: Apache-2.0
"""Each operator's implementations against the reference, and the reference against slow loops and float64.

The tables are long: by default every value of every dimension occurs, each shape with one dtype in turn;
VLLM_ASCEND_EXT_LONG_TESTS=1 runs the whole product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops.cases import (
    FLOATS,
    INTEGERS,
    ROW_TYPES,
    check_norm,
    counts_case,
    load_case,
    norm_case,
    pack_case,
    pack_output,
    rows_case,
    same_bytes,
)
from tests.ops.host_kernels import SCHEDULES, HostKernels
from tests.ops.traffic import least_bytes
from tests.support.long_tables import LONG, LONG_TESTS
from vllm_ascend_ext import ops

NUM_ROWS = (0, 1, 2, 7, 31, 32, 33, 1023, 1024, 4097)
TOP_K = (1, 2, 6, 8)
NUM_EXPERTS = (1, 8, 160, 256, 257, 512)
WIDTHS = (1, 64, 2112, 7168)
CORES = (1, 2, 40, 48)
SLOW_ELEMENTS = 4_000_000  # of a tensor; larger ones only in the whole product


def table(*dimensions: tuple[object, ...]) -> list[tuple[object, ...]]:
    """The product, or a diagonal through it in which every value of every dimension occurs."""
    if LONG:
        return list(itertools.product(*dimensions))
    longest = max(map(len, dimensions))
    return [
        tuple(values[(i + shift) % len(values)] for values in dimensions)
        for shift in range(2)
        for i in range(longest)
    ]


@pytest.fixture(params=CORES, ids=lambda cores: f"{cores} cores")
def kernels(request: pytest.FixtureRequest, host_kernels: HostKernels) -> Iterator[HostKernels]:
    with host_kernels.setting(request.param):
        yield host_kernels


@pytest.mark.parametrize(("rows", "top_k", "experts"), table(NUM_ROWS, TOP_K, NUM_EXPERTS))
def test_expert_load_add(kernels: HostKernels, rows: int, top_k: int, experts: int) -> None:
    for dtype in INTEGERS:
        load, ids, num_tokens = load_case(rows, top_k, experts, dtype, seed=rows)
        expected = load.clone()
        ops.expert_load_add_(expected, ids, num_tokens)
        kernels.expert_load_add_(load, ids, num_tokens)
        assert torch.equal(load, expected)


@pytest.mark.parametrize("experts", (1, 64, 256, 257, 512, 600))
def test_expert_load_add_of_one_expert(kernels: HostKernels, experts: int) -> None:
    """Every id the same: the highest counts, where fields of bits overflow first."""
    for expert in {0, experts // 2, experts - 1}:
        load, ids = torch.zeros(experts, dtype=torch.int32), torch.full((1025, 8), expert, dtype=torch.int32)
        kernels.expert_load_add_(load, ids, torch.tensor([1025], dtype=torch.int32))
        assert load[expert] == 1025 * 8 == load.sum()


@pytest.mark.parametrize("experts", (8, 256, 512, 600))
def test_expert_load_add_ignores_ids_of_any_size(kernels: HostKernels, experts: int) -> None:
    for dtype in INTEGERS:
        info = torch.iinfo(dtype)
        strange = [info.min, info.min + 3, -65536, -experts, -1, experts, 65539, 1 << 24, info.max - 3, info.max]
        if dtype == torch.int64:
            strange += [sign * (1 << bits) + 3 for bits in (31, 32, 33, 48, 62) for sign in (1, -1)]
        ids = torch.tensor([3, *strange, 3], dtype=dtype).repeat(70, 1)
        load = torch.zeros(experts, dtype=torch.int32)
        kernels.expert_load_add_(load, ids, torch.tensor([70], dtype=torch.int32))
        assert load[3] == 140 == load.sum()


@pytest.mark.parametrize("experts", (*NUM_EXPERTS, 5000))
@pytest.mark.parametrize("is_cumsum", [False, True])
def test_expert_load_add_counts(kernels: HostKernels, experts: int, is_cumsum: bool) -> None:
    for dtype in INTEGERS:
        load, counts = counts_case(experts, is_cumsum, dtype, seed=experts)
        expected = load.clone()
        ops.expert_load_add_counts_(expected, counts, is_cumsum)
        kernels.expert_load_add_counts_(load, counts, is_cumsum)
        assert torch.equal(load, expected)


@pytest.mark.parametrize(("rows", "width"), table(NUM_ROWS, WIDTHS))
def test_dp_pad_and_unpad(kernels: HostKernels, rows: int, width: int) -> None:
    if rows * width > SLOW_ELEMENTS and not LONG:
        pytest.skip(LONG_TESTS + "=1")
    for dtype in ROW_TYPES if LONG else ROW_TYPES[rows % 2 :: 2]:
        local, real, offset, total = rows_case(rows, width, dtype, seed=rows)
        padded = kernels.dp_pad(local, real, offset, total)
        assert same_bytes(padded, ops.dp_pad(local, real, offset, total))
        assert same_bytes(kernels.dp_unpad(padded, real, offset), local[:real])


@pytest.mark.parametrize(("rows", "width"), table(NUM_ROWS, (*WIDTHS, 9000)))
def test_add_rms_norm(kernels: HostKernels, rows: int, width: int) -> None:
    if rows * width > SLOW_ELEMENTS // 4 and not LONG:
        pytest.skip(LONG_TESTS + "=1")
    for dtype in FLOATS:
        case = norm_case(rows, width, dtype, seed=rows)
        check_norm(kernels.add_rms_norm(*case), case)


@pytest.mark.parametrize(("batch", "slots", "top_k"), table((0, 1, 2, 31, 33, 256), (1, 2, 4, 9), (0, 1, 5, 20)))
def test_mtp_pack_output(kernels: HostKernels, batch: int, slots: int, top_k: int) -> None:
    tensors = pack_case(batch, slots, top_k, seed=batch)
    assert torch.equal(kernels.mtp_pack_output(*tensors), pack_output(tensors))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("cores", CORES)
def test_kernels_are_clean_in_every_schedule(host_kernels: HostKernels, cores: int, schedule) -> None:
    """Several tiles and parts a core, so that every buffer is reused; results as in the eager schedule."""
    rows = 600 * min(cores, 2)
    with host_kernels.setting(cores, schedule):
        for experts in (257, 600):  # by the vector unit, by the scalar unit
            load, ids, num_tokens = load_case(9000 * min(cores, 2), 8, experts, torch.int64, seed=1)
            expected = load.clone()
            ops.expert_load_add_(expected, ids, num_tokens)
            host_kernels.expert_load_add_(load, ids, num_tokens)
            assert torch.equal(load, expected)
        local, real, offset, total = rows_case(rows, 500, torch.float32, seed=1)
        padded = host_kernels.dp_pad(local, real, offset, total)
        assert same_bytes(padded, ops.dp_pad(local, real, offset, total))
        for width, dtype in itertools.product((5, 64), FLOATS):
            case = norm_case(rows, width, dtype, seed=1)
            check_norm(host_kernels.add_rms_norm(*case), case)
        for dtype in FLOATS:
            case = norm_case(3 * cores, 9000, dtype, seed=1)
            check_norm(host_kernels.add_rms_norm(*case), case)
        tensors = pack_case(rows, 4, 20, seed=1)
        assert torch.equal(host_kernels.mtp_pack_output(*tensors), pack_output(tensors))
        load, counts = counts_case(9000, True, torch.int64, seed=1)
        expected = load.clone()
        ops.expert_load_add_counts_(expected, counts, True)
        host_kernels.expert_load_add_counts_(load, counts, True)
        assert torch.equal(load, expected)


KERNEL_SETTINGS = settings(
    max_examples=400 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
cores = st.integers(1, 48)
schedules = st.sampled_from(list(SCHEDULES.values()))
seeds = st.integers(0, 1 << 20)


@KERNEL_SETTINGS
@given(
    cores, schedules, st.integers(0, 400), st.integers(1, 9), st.integers(1, 600), st.sampled_from(INTEGERS), seeds
)
def test_any_expert_load(host_kernels: HostKernels, cores, schedule, rows, top_k, experts, dtype, seed) -> None:
    load, ids, num_tokens = load_case(rows, top_k, experts, dtype, seed)
    expected = load.clone()
    ops.expert_load_add_(expected, ids, num_tokens)
    with host_kernels.setting(cores, schedule):
        host_kernels.expert_load_add_(load, ids, num_tokens)
    assert torch.equal(load, expected)


@KERNEL_SETTINGS
@given(cores, schedules, st.integers(0, 300), st.integers(0, 700), st.sampled_from(ROW_TYPES), seeds)
def test_any_rows(host_kernels: HostKernels, cores, schedule, rows, width, dtype, seed) -> None:
    local, real, offset, total = rows_case(rows, width, dtype, seed)
    with host_kernels.setting(cores, schedule):
        padded = host_kernels.dp_pad(local, real, offset, total)
        assert same_bytes(host_kernels.dp_unpad(padded, real, offset), local[:real])
    assert same_bytes(padded, ops.dp_pad(local, real, offset, total))


@KERNEL_SETTINGS
@given(cores, schedules, st.integers(0, 60), st.integers(1, 8000), st.sampled_from(FLOATS), seeds)
def test_any_norm(host_kernels: HostKernels, cores, schedule, rows, width, dtype, seed) -> None:
    case = norm_case(rows, width, dtype, seed)
    with host_kernels.setting(cores, schedule):
        check_norm(host_kernels.add_rms_norm(*case), case)


@KERNEL_SETTINGS
@given(cores, schedules, st.integers(0, 60), st.integers(1, 12), st.integers(0, 24), seeds)
def test_any_records(host_kernels: HostKernels, cores, schedule, batch, slots, top_k, seed) -> None:
    tensors = pack_case(batch, slots, top_k, seed)
    with host_kernels.setting(cores, schedule):
        packed = host_kernels.mtp_pack_output(*tensors)
    assert torch.equal(packed, pack_output(tensors))


@pytest.mark.parametrize("cores", CORES)
def test_kernels_move_little_more_than_they_must(host_kernels: HostKernels, cores: int) -> None:
    """At most 5 % more, where there is enough work."""
    shapes: list[tuple[str, tuple[object, ...]]] = [
        ("expert_load_add_counts_", (*counts_case(512, True, torch.int64, 1), True)),
        ("dp_pad", (torch.ones(70, 2112), 64, 7, 100)),
        ("dp_unpad", (torch.ones(70, 2112), 64, 3)),
        ("add_rms_norm", norm_case(8 * cores, 2112, torch.bfloat16, 1)),
        ("mtp_pack_output", tuple(pack_case(64, 4, 20, 1))),
    ]
    for rows, dtype in itertools.product((256, 1024, 4096, 16384), INTEGERS):
        load, ids, num_tokens = load_case(rows, 8, 256, dtype, seed=1)
        shapes.append(("expert_load_add_", (load, ids, num_tokens.fill_(rows))))
    with host_kernels.setting(cores):
        for name, arguments in shapes:
            getattr(host_kernels, name)(*arguments)
            moved = host_kernels.statistics.gm_bytes_read + host_kernels.statistics.gm_bytes_written
            assert 1 <= moved / least_bytes(name, arguments) <= 1.05, name


def test_shapes_that_do_not_fit_are_refused(host_kernels: HostKernels) -> None:
    wide = torch.zeros(1, 30_000)
    with pytest.raises(ValueError, match="tiling error 3"):
        host_kernels.add_rms_norm(wide, wide, wide[0], 1e-6)
    with pytest.raises(ValueError, match="tiling error 3"):
        host_kernels.mtp_pack_output(*pack_case(1, 400, 40, 0))
