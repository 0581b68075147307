# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the references: on a GPU (``pytest -m cuda``), on the CPU in Triton's interpreter.

Triton decides when it is first imported whether it compiles or interprets, so the interpreted tests run in a
process of their own, started by the last test here.
"""

from __future__ import annotations

import os
import subprocess
import sys

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
)
from vllm_ascend_ext import ops

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytest.importorskip("triton")
on_device = (lambda test: test) if INTERPRETED else pytest.mark.cuda
# the interpreter needs a tenth of a second a program
NUM_ROWS = (0, 1, 2, 7, 31, 33) if INTERPRETED else (0, 1, 2, 7, 31, 32, 33, 1023, 1024, 4097)
WIDTHS = (1, 64, 2112) if INTERPRETED else (1, 64, 2112, 7168)


def on(tensors):
    return [t.to(DEVICE) if isinstance(t, torch.Tensor) else t for t in tensors]


@on_device
@pytest.mark.parametrize("experts", [1, 8, 160, 256, 257, 512])
@pytest.mark.parametrize("rows", NUM_ROWS)
def test_expert_load_add(rows, experts):
    from vllm_ascend_ext.ops.triton.expert_load import expert_load_add_

    for dtype, load_dtype, top_k in zip(INTEGERS * 2, (*INTEGERS, *INTEGERS[::-1]), (1, 2, 6, 8), strict=True):
        load, ids, num_tokens = load_case(rows, top_k, experts, dtype, seed=rows)
        load = load.to(load_dtype)
        on_load, on_ids, on_num_tokens = on((load, ids, num_tokens))
        ops.expert_load_add_(load, ids, num_tokens)
        expert_load_add_(on_load, on_ids, on_num_tokens)
        assert torch.equal(on_load.cpu(), load)


@on_device
def test_expert_load_add_with_strides_and_several_blocks():
    from vllm_ascend_ext.ops.triton.expert_load import expert_load_add_

    load, ids, num_tokens = load_case(700, 8, 40, torch.int64, seed=5)
    expected = load.clone()
    num_tokens.fill_(690)
    ops.expert_load_add_(expected, ids[:, ::2], num_tokens)
    wide, on_ids, on_num_tokens = on((torch.stack([load, load], dim=1), ids, num_tokens))
    expert_load_add_(wide[:, 1], on_ids[:, ::2], on_num_tokens)
    assert torch.equal(wide[:, 1].cpu(), expected) and torch.equal(wide[:, 0].cpu(), load)


@on_device
@pytest.mark.parametrize("is_cumsum", [False, True])
@pytest.mark.parametrize("experts", [1, 8, 160, 257, 1500])
def test_expert_load_add_counts(experts, is_cumsum):
    from vllm_ascend_ext.ops.triton.expert_load_counts import expert_load_add_counts_

    for dtype in INTEGERS:
        load, counts = counts_case(experts, is_cumsum, dtype, seed=experts)
        on_load, on_counts = on((load, counts))
        ops.expert_load_add_counts_(load, counts, is_cumsum)
        expert_load_add_counts_(on_load, on_counts, is_cumsum)
        assert torch.equal(on_load.cpu(), load)


@on_device
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", NUM_ROWS)
def test_dp_pad_and_unpad(rows, width):
    from vllm_ascend_ext.ops.triton.dp_rows import dp_pad, dp_unpad

    for dtype in ROW_TYPES:
        local, real, offset, total = rows_case(rows, width, dtype, seed=rows)
        padded = dp_pad(*on((local, real, offset, total)))
        expected = ops.dp_pad(local, real, offset, total)
        assert padded.dtype == dtype
        assert torch.equal(padded.cpu().view(torch.int8), expected.view(torch.int8))
        taken = dp_unpad(padded, real, offset).cpu()
        assert torch.equal(taken.view(torch.int8), local[:real].view(torch.int8))


@on_device
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", NUM_ROWS)
def test_add_rms_norm(rows, width):
    from vllm_ascend_ext.ops.triton.add_rms_norm import add_rms_norm

    for dtype in FLOATS:
        case = norm_case(rows, width, dtype, seed=rows)
        check_norm(tuple(result.cpu() for result in add_rms_norm(*on(case))), case)


@on_device
@pytest.mark.parametrize(("slots", "top_k"), [(1, 0), (2, 0), (2, 1), (4, 5), (9, 20)])
@pytest.mark.parametrize("batch", [0, 1, 2, 33])
def test_mtp_pack_output(batch, slots, top_k):
    from vllm_ascend_ext.ops.triton.mtp_pack import mtp_pack_output

    tensors = pack_case(batch, slots, top_k, seed=batch)
    assert torch.equal(mtp_pack_output(*on(tensors)).cpu(), pack_output(tensors))


@pytest.mark.cuda
def test_cuda_tensors_reach_the_kernels():
    kinds = {row.op: row.kind for row in ops.coverage(["cuda"])}
    assert set(kinds.values()) == {"triton"}
    load, ids, num_tokens = on(load_case(33, 8, 256, torch.int32, seed=1))
    graph, captured = torch.cuda.CUDAGraph(), load.clone()
    ops.expert_load_add_(load, ids, num_tokens)  # compiles
    with torch.cuda.graph(graph):
        ops.expert_load_add_(captured, ids, num_tokens)
    graph.replay()
    assert torch.equal(captured, load)


@pytest.mark.skipif(INTERPRETED, reason="is in the interpreter")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-m", "not cuda"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "failed" not in done.stdout
