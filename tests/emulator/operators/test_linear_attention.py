# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule and its convolution on the emulator, against the same mathematics in float64 on the CPU.

Shapes: T = tokens of B sequences, packed; Nk = key heads, Nv = value heads, Dk and Dv = head sizes; D = channels,
W = taps.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.emulator.operators.comparison import assert_close

pytestmark = pytest.mark.emulator

NUM_KEY_HEADS, NUM_VALUE_HEADS, KEY_SIZE, VALUE_SIZE = 2, 4, 16, 24
SCALE = KEY_SIZE**-0.5
LENGTHS = (3, 0, 1, 4)
DTYPES = (torch.float32, torch.bfloat16)
PAD = -1


def operands(num_tokens: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    key = torch.nn.functional.normalize(torch.randn(num_tokens, NUM_KEY_HEADS, KEY_SIZE), dim=-1)
    return {
        "query": torch.randn(num_tokens, NUM_KEY_HEADS, KEY_SIZE).to(dtype),
        "key": key.to(dtype),
        "value": torch.randn(num_tokens, NUM_VALUE_HEADS, VALUE_SIZE).to(dtype),
        "g": -torch.rand(num_tokens, NUM_VALUE_HEADS),
        "beta": torch.rand(num_tokens, NUM_VALUE_HEADS).to(dtype),
    }


def states(number: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(number, NUM_VALUE_HEADS, VALUE_SIZE, KEY_SIZE).to(dtype)


def followed(of: dict[str, torch.Tensor], begin: int, end: int, state: torch.Tensor) -> tuple[Any, Any]:
    """The outputs of tokens, [T, Nv, Dv], and the states behind each, [T, Nv, Dv, Dk], head by head."""
    outputs = torch.zeros(end - begin, NUM_VALUE_HEADS, VALUE_SIZE, dtype=torch.float64)
    behind = torch.zeros(end - begin, *state.shape, dtype=torch.float64)
    for head in range(NUM_VALUE_HEADS):
        of_key = head // (NUM_VALUE_HEADS // NUM_KEY_HEADS)
        matrix = state[head].double()
        for place, token in enumerate(range(begin, end)):
            key, query = of["key"][token, of_key].double(), of["query"][token, of_key].double()
            matrix = matrix * of["g"][token, head].double().exp()
            missing = of["value"][token, head].double() - matrix @ key
            matrix = matrix + of["beta"][token, head].double() * torch.outer(missing, key)
            outputs[place, head], behind[place, head] = matrix @ query * SCALE, matrix
    return outputs, behind


def on_npu(of: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.npu() for name, tensor in of.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accepted", [None, (2, 1, 1, 4)])
def test_recurrent_gated_delta_rule(dtype: torch.dtype, accepted: tuple[int, ...] | None) -> None:
    """A sequence goes on from the state of its last accepted token; vllm-ascend's form takes float32 as well."""
    import torch_npu
    import vllm_ascend.vllm_ascend_C  # noqa: F401 - the stand-in defines the operators

    num_tokens = sum(LENGTHS)
    of, state = operands(num_tokens, dtype), states(12, dtype)
    indices = torch.randperm(12)[:num_tokens].int()
    lengths = torch.tensor(LENGTHS, dtype=torch.int32)
    expected_state, expected = state.double(), []
    begin = 0
    for sequence, length in enumerate(LENGTHS):
        if length:
            first = indices[begin + (accepted[sequence] - 1 if accepted else 0)]
            outputs, behind = followed(of, begin, begin + length, state[first])
            expected.append(outputs)
            expected_state[indices[begin : begin + length].long()] = behind
        begin += length
    named: dict[str, Any] = {"scale": SCALE, "ssm_state_indices": indices.npu()}
    if accepted is not None:
        named["num_accepted_tokens"] = torch.tensor(accepted, dtype=torch.int32).npu()
    calls = [(torch.ops._C_ascend.npu_recurrent_gated_delta_rule, torch.tensor([0, *LENGTHS], dtype=torch.int32))]
    if dtype == torch.bfloat16:
        calls.append((torch_npu.npu_recurrent_gated_delta_rule, lengths))
    for rule, actual_seq_lengths in calls:
        updated = state.npu()
        out = rule(**on_npu(of), state=updated, actual_seq_lengths=actual_seq_lengths.npu(), **named)
        assert_close(out, torch.cat(expected))
        assert_close(updated, expected_state)


def test_recurrent_gated_delta_rule_replays(race_reports: Any) -> None:
    """A captured call reads lengths and places anew; a sequence without tokens changes nothing."""
    import vllm_ascend.vllm_ascend_C  # noqa: F401

    of, before = operands(4, torch.float32), states(5, torch.float32)
    state, lengths = before.npu(), torch.tensor([0, 1, 1], dtype=torch.int32).npu()
    indices = torch.tensor([1, 2], dtype=torch.int32).npu()
    graph = torch.npu.NPUGraph()
    npu = on_npu(of)
    with torch.npu.graph(graph):
        out = torch.ops._C_ascend.npu_recurrent_gated_delta_rule(
            **npu, state=state, scale=SCALE, actual_seq_lengths=lengths, ssm_state_indices=indices
        )
    lengths.copy_(torch.tensor([0, 1, 0], dtype=torch.int32))
    indices.copy_(torch.tensor([3, -1], dtype=torch.int32))
    graph.replay()
    outputs, behind = followed(of, 0, 1, before[3])
    assert_close(out[:1], outputs)
    assert_close(state[3:4], behind)
    assert torch.equal(state.cpu()[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert race_reports.take() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunk_gated_delta_rule(dtype: torch.dtype) -> None:
    """Long sequences, by torch_npu in bfloat16, and in vllm-ascend's form with states of [Dk, Dv]."""
    import torch_npu

    from emulator.vllm_ascend.linear_attention import chunk_gated_delta_rule

    lengths = torch.tensor([70, 1, 9], dtype=torch.int32)
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    of, initial = operands(int(ends[-1]), dtype), states(3, dtype)
    spans = list(zip(ends.tolist(), ends[1:].tolist(), strict=False))
    parts = [followed(of, begin, end, initial[i]) for i, (begin, end) in enumerate(spans)]
    outputs, last = torch.cat([part for part, _ in parts]), torch.stack([behind[-1] for _, behind in parts])
    query, key, value, g, beta = (on_npu(of)[name][None] for name in ("query", "key", "value", "g", "beta"))
    out, state = chunk_gated_delta_rule(
        query, key, value, g, beta, initial.npu().transpose(-1, -2), ends.npu(), use_qk_l2norm_in_kernel=False
    )
    assert_close(out[0], outputs)
    assert_close(state.transpose(-1, -2), last)
    if dtype == torch.bfloat16:
        out, state = torch_npu.npu_chunk_gated_delta_rule(
            **on_npu(of), initial_state=initial.npu(), actual_seq_lengths=lengths.npu(), scale=SCALE
        )
        assert_close(out, outputs)
        assert_close(state, last)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"g": torch.zeros(4, 3)}, "beta and g must be"),
        ({"state": torch.zeros(5, 4, 16, 24)}, r"state must be \[.., Nv, Dv, Dk\]"),
        ({"ssm_state_indices": torch.zeros(4, dtype=torch.int64)}, "ssm_state_indices must be int32"),
        ({"gk": torch.zeros(4, 2, 16)}, "a gate for each key"),
    ],
)
def test_what_the_delta_rule_refuses(changed: dict[str, torch.Tensor], message: str) -> None:
    import torch_npu

    named = operands(4, torch.bfloat16) | {
        "state": states(5, torch.bfloat16),
        "actual_seq_lengths": torch.tensor([4], dtype=torch.int32),
        "ssm_state_indices": torch.arange(4, dtype=torch.int32),
    }
    with pytest.raises(RuntimeError, match=message):
        torch_npu.npu_recurrent_gated_delta_rule(**on_npu(named | changed), scale=SCALE)


NUM_CHANNELS, NUM_TAPS, NUM_DRAFTS = 6, 4, 3


def convolved(x: torch.Tensor, earlier: torch.Tensor, weight_WD: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The convolution of one sequence behind its earlier inputs, [W - 1, D]."""
    inputs = torch.cat([earlier, x]).double()
    sums = [(inputs[t : t + NUM_TAPS] * weight_WD.double()).sum(0) + bias.double() for t in range(len(x))]
    return torch.nn.functional.silu(torch.stack(sums))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accepted", [None, (2, 1, 1, 4)])
def test_causal_convolution(dtype: torch.dtype, accepted: tuple[int, ...] | None) -> None:
    """Of a prefill the last inputs are kept; with drafts all are, and the next call tells which have stayed."""
    import vllm_ascend.vllm_ascend_C  # noqa: F401

    x, weight = torch.randn(sum(LENGTHS), NUM_CHANNELS).to(dtype), torch.randn(NUM_TAPS, NUM_CHANNELS).to(dtype)
    bias = torch.randn(NUM_CHANNELS).to(dtype)
    state = torch.randn(7, NUM_TAPS - 1 + NUM_DRAFTS, NUM_CHANNELS).to(dtype)
    rows, begins = (5, PAD, 2, 3), (False, False, True, False)
    expected, expected_state, begin = [], state.clone(), 0
    for sequence, length in enumerate(LENGTHS):
        row, tokens = rows[sequence], x[begin : begin + length]
        begin += length
        if not length:
            continue
        first = accepted[sequence] - 1 if accepted else 0
        earlier = state[row, first : first + NUM_TAPS - 1]
        if accepted is None and begins[sequence]:
            earlier = torch.zeros_like(earlier)
        expected.append(convolved(tokens, earlier, weight, bias))
        inputs = torch.cat([earlier, tokens])
        kept = inputs[-(NUM_TAPS - 1) :] if accepted is None else inputs[1:]
        expected_state[row, : len(kept)] = kept
    out, updated = torch.empty_like(x).npu(), state.npu()
    torch.ops._C_ascend.npu_causal_conv1d_custom(
        out,
        x.npu(),
        weight.npu(),
        conv_state=updated,
        bias_opt=bias.npu(),
        query_start_loc_opt=torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0).int().npu(),
        cache_indices_opt=torch.tensor(rows, dtype=torch.int32).npu(),
        initial_state_mode_opt=None if accepted else ~torch.tensor(begins).npu(),
        num_accepted_tokens_opt=torch.tensor(accepted, dtype=torch.int32).npu() if accepted else None,
        activation_mode=1,
        pad_slot_id=PAD,
        run_mode=1 if accepted else 0,
    )
    assert_close(out, torch.cat(expected))
    assert torch.equal(updated.cpu(), expected_state)


def test_gating_and_norms() -> None:
    """What surrounds the delta rule: what a state keeps, rows of length one, a gated norm, projections apart."""
    import vllm_ascend.vllm_ascend_C  # noqa: F401

    from emulator.vllm_ascend import linear_attention as ours

    a, b, A_log, dt_bias = torch.randn(5, 4), torch.randn(5, 4), torch.randn(4), torch.randn(4)  # noqa: N806
    a[0, 0] = 30.0
    g, beta = torch.ops._C_ascend.npu_fused_gdn_gating(A_log.npu(), a.npu(), b.npu(), dt_bias.npu())
    assert_close(g[0], -A_log.double().exp() * (1 + (a + dt_bias).double().exp()).log())
    assert_close(beta[0], 1 / (1 + (-b.double()).exp()))
    x, z, weight = torch.randn(5, 8), torch.randn(5, 8), torch.randn(8)
    assert_close(ours.l2norm(x.npu()), x.double() / (x.double().square().sum(-1, keepdim=True) + 1e-6).sqrt())
    normed = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    gated, *_ = ours.gated_norm(x.npu(), weight.npu(), None, 1e-6, z=z.npu(), is_rms_norm=True)
    assert_close(gated, normed * z.double() / (1 + (-z.double()).exp()))
    # a key head's part: query, key, values and gates of its value heads
    heads = torch.arange(2 * 2 * (3 + 3 + 4 + 4)).float().view(2, 2, 14)
    numbers = torch.arange(2 * 2 * 4).float().view(2, 2, 4)
    qkv, gates, b, a = ours.split_qkvzba(heads.flatten(1).npu(), numbers.flatten(1).npu(), 2, 4, 3, 2)
    for token in range(2):
        first, second = heads[token]
        assert torch.equal(
            qkv[token].cpu(),
            torch.cat([h[part] for part in (slice(3), slice(3, 6), slice(6, 10)) for h in (first, second)]),
        )
        assert torch.equal(gates[token].cpu().flatten(), torch.cat([first[10:], second[10:]]))
        assert torch.equal(b[token].cpu(), numbers[token, :, :2].flatten())
        assert torch.equal(a[token].cpu(), numbers[token, :, 2:].flatten())
