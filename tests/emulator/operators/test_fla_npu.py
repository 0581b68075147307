# SPDX-License-Identifier: Apache-2.0
"""What stands in for fla_npu's gated delta net, whose kernels take other layouts than vllm-ascend 0.23's."""

from __future__ import annotations

import pytest
import torch

from tests.emulator.operators.comparison import assert_close
from tests.emulator.operators.test_linear_attention import (
    NUM_CHANNELS,
    NUM_TAPS,
    SCALE,
    convolved,
    followed,
    on_npu,
    operands,
    states,
)

pytestmark = pytest.mark.emulator

NULL = 0  # the row of sequences that take no part


def test_chunk_gated_delta_rule_fwd() -> None:
    """Heads come before tokens, the lengths from the host, and states are [Dk, Dv]."""
    from emulator.vllm_ascend.fla_npu import chunk_gated_delta_rule_fwd

    ends = (0, 70, 71, 80)
    of, initial = operands(ends[-1], torch.float32), states(3, torch.float32)
    spans = list(zip(ends, ends[1:], strict=False))
    parts = [followed(of, begin, end, initial[i]) for i, (begin, end) in enumerate(spans)]
    outputs, last = torch.cat([part for part, _ in parts]), torch.stack([behind[-1] for _, behind in parts])
    npu = on_npu(of)
    heads_first = [npu[name][None].transpose(1, 2).contiguous() for name in ("query", "key", "value")]
    out, state = chunk_gated_delta_rule_fwd(
        *heads_first,
        npu["g"][None],
        npu["beta"][None],
        initial_state=initial.npu().transpose(-1, -2).contiguous(),
        cu_seqlens=ends,
        scale=SCALE,
        layout="BNSD",
        use_exp2=False,
        use_qk_l2norm_in_kernel=False,
        state_v_first=False,
    )
    assert_close(out[0], outputs)
    assert_close(state.transpose(-1, -2), last)


def test_convolutions_leave_the_null_row_alone() -> None:
    """A prefill of three sequences, of which one begins and one has no row, then a step of one token each."""
    from emulator.vllm_ascend.fla_npu import causal_conv1d_fn, causal_conv1d_update

    weight, bias = torch.randn(NUM_TAPS, NUM_CHANNELS), torch.randn(NUM_CHANNELS)
    state = torch.randn(5, NUM_TAPS - 1, NUM_CHANNELS)
    x, step = torch.randn(9, NUM_CHANNELS), torch.randn(3, NUM_CHANNELS)
    rows = torch.tensor([4, NULL, 2], dtype=torch.int32).npu()
    starts = torch.tensor([0, 3, 5, 9], dtype=torch.int32).npu()
    updated = state.npu()
    out = causal_conv1d_fn(
        x.npu(),
        weight.npu(),
        bias.npu(),
        conv_states=updated,
        query_start_loc=starts,
        cache_indices=rows,
        has_initial_state=torch.tensor([True, True, False]).npu(),
        activation="silu",
        null_block_id=NULL,
    )
    assert_close(out[:3], convolved(x[:3], state[4], weight, bias))
    assert_close(out[5:], convolved(x[5:], torch.zeros_like(state[2]), weight, bias))
    kept = {4: torch.cat([state[4], x[:3]])[-3:], 2: x[6:]}
    assert all(torch.equal(updated.cpu()[row], inputs) for row, inputs in kept.items())
    result = torch.empty_like(step).npu()
    causal_conv1d_update(
        step.npu(),
        updated,
        weight.npu(),
        bias=bias.npu(),
        activation="silu",
        conv_state_indices=rows,
        query_start_loc=torch.arange(4, dtype=torch.int32).npu(),
        null_block_id=NULL,
        out=result,
    )
    for place, row in ((0, 4), (2, 2)):
        assert_close(result[place : place + 1], convolved(step[place : place + 1], kept[row], weight, bias))
        assert torch.equal(updated.cpu()[row], torch.cat([kept[row][1:], step[place : place + 1]]))
    untouched = [NULL, 1, 3]
    assert torch.equal(updated.cpu()[untouched], state[untouched])


def test_states_by_row() -> None:
    """A sequence that begins has zeros, whatever its row holds."""
    from emulator.vllm_ascend.linear_attention import gather_ssm_states, scatter_ssm_states

    state = states(5, torch.float32)
    rows, goes_on = torch.tensor([3, 1], dtype=torch.int32).npu(), torch.tensor([True, False]).npu()
    updated = state.npu()
    found = gather_ssm_states(updated, rows, goes_on).cpu()
    assert torch.equal(found, torch.stack([state[3], torch.zeros_like(state[1])]))
    scatter_ssm_states(updated, rows, found.npu() + 1)
    expected = state.clone()
    expected[[3, 1]] = found + 1
    assert torch.equal(updated.cpu(), expected)


def test_other_names_are_errors_when_called() -> None:
    from emulator.vllm_ascend import fla_npu

    with pytest.raises(NotImplementedError, match="chunk_kda_fwd"):
        fla_npu.chunk_kda_fwd()
