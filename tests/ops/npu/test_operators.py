# SPDX-License-Identifier: Apache-2.0
"""The operators on NPU tensors, by AscendC kernels on an NPU or emulated, against the references on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

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
from vllm_ascend_ext import ops
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder

pytestmark = pytest.mark.npu

LOAD_SHAPES = ((0, 6, 8), (1, 1, 1), (33, 8, 256), (1024, 6, 160), (4097, 8, 257), (31, 2, 512))
ROW_SHAPES = ((0, 64), (1, 1), (7, 7168), (33, 2112), (1023, 64))
NORM_SHAPES = ((0, 64), (1, 1), (7, 7168), (33, 2112), (100, 64), (2, 9000))
PACK_SHAPES = ((0, 2, 0), (1, 1, 0), (33, 2, 1), (64, 4, 20), (5, 9, 5))


def npu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("npu")


def scalar(num_tokens: int) -> torch.Tensor:
    return torch.tensor(num_tokens, dtype=torch.int32, device="npu")


def test_the_kernels_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {row.kind for row in ops.coverage(["npu"])} == {"ascendc"}
    monkeypatch.setenv("VLLM_ASCEND_EXT_STRICT_OPS", "1")
    ops.require_kernels("npu")


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("shape", LOAD_SHAPES, ids=str)
def test_expert_load_add(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    load, ids, num_tokens = load_case(*shape, dtype, seed=shape[0])
    on_npu = npu(load)
    for _ in range(2):
        ops.expert_load_add_(load, ids, num_tokens)
        ops.expert_load_add_(on_npu, npu(ids), npu(num_tokens))
    assert torch.equal(on_npu.cpu(), load)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("is_cumsum", [False, True])
@pytest.mark.parametrize("experts", [1, 160, 257, 5000])
def test_expert_load_add_counts(experts: int, is_cumsum: bool, dtype: torch.dtype) -> None:
    load, counts = counts_case(experts, is_cumsum, dtype, seed=experts)
    on_npu = npu(load)
    ops.expert_load_add_counts_(load, counts, is_cumsum)
    ops.expert_load_add_counts_(on_npu, npu(counts), is_cumsum)
    assert torch.equal(on_npu.cpu(), load)


@pytest.mark.parametrize("dtype", [dtype for dtype in ROW_TYPES if dtype != torch.float8_e4m3fn], ids=str)
def test_dp_pad_and_unpad(dtype: torch.dtype) -> None:
    for rows, width in ROW_SHAPES:
        local, real, offset, total = rows_case(rows, width, dtype, seed=rows)
        padded = ops.dp_pad(npu(local), real, offset, total)
        assert same_bytes(padded.cpu(), ops.dp_pad(local, real, offset, total))
        assert same_bytes(ops.dp_unpad(padded, real, offset).cpu(), local[:real])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
def test_add_rms_norm(shape: tuple[int, int], dtype: torch.dtype) -> None:
    *tensors, eps = norm_case(*shape, dtype, seed=shape[0])
    y, residual_out = ops.add_rms_norm(*map(npu, tensors), eps)
    check_norm((y.cpu(), residual_out.cpu()), (*tensors, eps))


@pytest.mark.parametrize("shape", PACK_SHAPES, ids=str)
def test_mtp_pack_output(shape: tuple[int, int, int]) -> None:
    tensors = pack_case(*shape, seed=shape[0])
    assert torch.equal(pack_output([npu(tensor) for tensor in tensors]).cpu(), pack_output(tensors))


def test_strided_arguments() -> None:
    """Columns of wider tensors, and a load that is one: what lies between stays as it is."""
    counts = torch.arange(12, dtype=torch.int32).view(4, 3)
    wide = torch.tensor([[0, 9, 2], [2, 9, 3]], dtype=torch.int32)
    local = torch.arange(12.0).view(2, 6)
    expected = counts.clone()
    ops.expert_load_add_(expected[:, 1], wide[:, ::2], torch.tensor(2, dtype=torch.int32))
    ops.expert_load_add_counts_(expected[:, 0], counts[:, 2], True)
    on_npu, others = npu(counts), npu(counts)
    ops.expert_load_add_(on_npu[:, 1], npu(wide)[:, ::2], scalar(2))
    ops.expert_load_add_counts_(on_npu[:, 0], others[:, 2], True)
    assert torch.equal(on_npu.cpu(), expected)
    assert torch.equal(ops.dp_pad(npu(local)[:, ::2], 1, 1, 3).cpu(), ops.dp_pad(local[:, ::2], 1, 1, 3))


def test_the_current_stream_is_used() -> None:
    """Each of these reads what the one before wrote, in an order that only its stream gives."""
    main, side = torch.npu.current_stream(), torch.npu.Stream()
    side.wait_stream(main)
    with torch.npu.stream(side):
        load = torch.zeros(64, dtype=torch.int32, device="npu")
        ids = torch.arange(64, dtype=torch.int32, device="npu").view(8, 8)
        for _ in range(20):
            ops.expert_load_add_(load, ids, scalar(8))
            padded = ops.dp_pad(load.view(8, 8), 8, 1, 10)
            load = ops.dp_unpad(padded, 8, 1).view(64)
        total = load.sum()
    main.wait_stream(side)
    assert total.item() == 20 * 64
    torch.npu.synchronize()


def test_graph_replays_follow_the_scalar() -> None:
    """One graph, captured with one number of tokens, replayed with others; a replay runs the kernel."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(-1, 65, (700, 4), generator=generator, dtype=torch.int32)
    load, expected = torch.zeros(64, dtype=torch.int32, device="npu"), torch.zeros(64, dtype=torch.int32)
    on_npu, num_tokens = npu(ids), scalar(0)
    ops.expert_load_add_(load, on_npu, num_tokens)  # warm-up
    torch.npu.synchronize()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        ops.expert_load_add_(load, on_npu, num_tokens)
        padded = ops.dp_pad(load.view(8, 8), 8, 0, 9)
    assert not load.any()
    for count in (700, 0, 1, 333, 1000):
        num_tokens.fill_(count)
        graph.replay()
        ops.expert_load_add_(expected, ids, torch.tensor(count, dtype=torch.int32))
        assert torch.equal(load.cpu(), expected)
        assert torch.equal(padded.cpu()[:8].view(64), expected)
    torch.npu.synchronize()


def _refusals() -> Iterator[tuple[type[Exception], str, Callable[[], object]]]:
    load, ids = torch.zeros(4, dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int32)
    floats, wide = torch.zeros(2, 4), torch.zeros(1, 30_000)
    tokens, accepted = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    add, counts, norm, pack = (
        ops.expert_load_add_,
        ops.expert_load_add_counts_,
        ops.add_rms_norm,
        torch.ops.ascend_ext.mtp_pack_output,
    )
    one = torch.ones((), dtype=torch.int32)
    top_k = ids[:, :, None].repeat(1, 2, 1)[:, :3]
    yield TypeError, "int32 on an NPU.*dtype=torch.int32", lambda: add(npu(load.long()), npu(ids), npu(one))
    yield TypeError, "int32 on an NPU.*dtype=torch.int32", lambda: counts(npu(load.long()), npu(load), False)
    yield TypeError, "int32 or int64 topk_ids and int32 num_tokens", lambda: add(npu(load), npu(floats), npu(one))
    yield TypeError, "int32 or int64 counts", lambda: counts(npu(load), npu(load.float()), False)
    yield ValueError, "takes load .E., topk_ids", lambda: add(npu(load), npu(load), npu(one))
    yield ValueError, "tensors of one device", lambda: add(npu(load), npu(ids), one)
    yield ValueError, "takes load .E. and counts .E.", lambda: counts(npu(load), npu(load[:3]), True)
    yield ValueError, "do.* not fit in the 188160 bytes", lambda: add(npu(load).repeat(20_000), npu(ids), npu(one))
    yield TypeError, "1, 2 or 4 bytes", lambda: ops.dp_pad(npu(floats.double()), 1, 0, 1)
    yield ValueError, "3 rows of 2 do not fit", lambda: ops.dp_pad(npu(floats), 3, 0, 9)
    yield ValueError, "must not be negative", lambda: ops.dp_unpad(npu(floats), 1, -1)
    yield ValueError, "no 2 rows at 1", lambda: ops.dp_unpad(npu(floats), 2, 1)
    yield ValueError, "residual .T, H.", lambda: norm(npu(floats), npu(floats[:1]), npu(floats[0]), 1e-6)
    yield (
        TypeError,
        "all float16, bfloat16 or float32",
        lambda: norm(npu(floats), npu(floats.half()), npu(floats[0]), 1e-6),
    )
    yield ValueError, "a row of 30000 elements.* not fit", lambda: norm(npu(wide), npu(wide), npu(wide[0]), 1e-6)
    yield ValueError, "together or none", lambda: pack(npu(tokens), npu(accepted), npu(accepted), npu(top_k))
    yield ValueError, "takes num_accepted", lambda: pack(npu(tokens), npu(accepted[:1]), npu(accepted))
    yield TypeError, "takes int32 tensors", lambda: pack(npu(tokens.long()), npu(accepted), npu(accepted))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [pytest.param(*refusal, id=f"{index}: {refusal[1]}") for index, refusal in enumerate(_refusals())],
)
def test_what_the_kernels_do_not_do_is_refused(
    error: type[Exception], message: str, call: Callable[[], object]
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_recorder_counts_through_the_kernel() -> None:
    """Two layers, three steps, the last one a dummy; counted as on the CPU."""
    devices = [torch.device("cpu"), torch.device("npu")]
    on_cpu, on_npu = (ExpertLoadRecorder(2, 16, device) for device in devices)
    generator = torch.Generator().manual_seed(2)
    for num_tokens in (30, 7, 0):
        ids = torch.randint(0, 16, (2, 32, 4), generator=generator)
        for recorder, device in zip((on_cpu, on_npu), devices, strict=True):
            recorder.begin_step(num_tokens)
            for layer in range(2):
                recorder.record(layer, ids[layer].to(device))
    assert torch.equal(on_npu.read().load_LE, on_cpu.read().load_LE)
    assert on_npu.read().load_LE.sum() == 2 * 37 * 4
