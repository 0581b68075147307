# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter.cost import RATES
from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes, Way, parts
from vllm_ascend_ext.machines.known import KNOWN
from vllm_ascend_ext.machines.rates import Rates
from vllm_ascend_ext.ops.add_rms_norm import add_rms_norm

V3 = LayerSizes(hidden=7168, gathered=2112, element_bytes=2)


def _seconds(layer: LayerSizes, num_rows: int, num_ranks: int, rates: Rates, *, scattered: bool) -> float:
    """A layer's time, from its description."""
    rows = num_rows / num_ranks if scattered else num_rows
    bytes_of = scatter_cost.scattered_layer if scattered else scatter_cost.plain_layer
    work = 4 * layer.hidden * layer.element_bytes * rows / rates.memory
    weights = layer.hidden * layer.gathered
    work += max(2 * weights * rows / rates.flops, 2 * weights / rates.memory)
    return bytes_of(layer, num_rows, num_ranks) / rates.link + work + (3 if scattered else 2) * rates.collective_s


@settings(deadline=None)
@given(
    num_ranks=st.integers(2, 16),
    hidden=st.integers(100, 9000),
    collective_us=st.floats(1, 1000),
    link=st.floats(1e8, 1e12),
)
def test_threshold_is_where_the_times_cross(
    num_ranks: int, hidden: int, collective_us: float, link: float
) -> None:
    rates = Rates("any", flops=1e14, memory=1e12, link=link, collective_s=collective_us / 1e6)
    layer = LayerSizes(hidden, hidden // 3, 2)
    threshold = scatter_cost.min_tokens([layer], num_ranks, rates)
    assert threshold is not None
    for num_rows in (threshold // 2, 2 * threshold):
        whole = max(num_rows // num_ranks, 1) * num_ranks
        times = [_seconds(layer, whole, num_ranks, rates, scattered=s) for s in (True, False)]
        if whole >= threshold:
            assert times[0] < times[1]
        elif whole > num_ranks:
            assert times[0] > times[1]


def test_threshold_of_known_models() -> None:
    layers = [V3] * 3 + [dataclasses.replace(V3, logits_bytes=1024)] * 58
    for rates in RATES.values():
        plain = scatter_cost.min_tokens(layers, 8, rates)
        full = scatter_cost.min_tokens(layers, 8, rates, full=True)
        assert plain is not None and 8 <= plain < 1024, rates
        assert full is not None and full >= plain
    # nothing narrower to gather: only the norm is saved, which does not pay for a slow link's extra collective
    wide = LayerSizes(hidden=4096, gathered=4096, element_bytes=2)
    narrow = LayerSizes(hidden=4096, gathered=1024, element_bytes=2)
    of_wide, of_narrow = (scatter_cost.min_tokens([x], 4, RATES["cuda"]) for x in (wide, narrow))
    assert of_wide is not None and of_narrow is not None and of_wide > 4 * of_narrow
    # sequence-parallel experts: fewer bytes and no more calls, so every shard that is not empty pays
    assert scatter_cost.min_tokens([dataclasses.replace(V3, mlp_on_shards=True)], 4, RATES["cuda"]) == 4
    # a gather of rows wider than the hidden state can only lose
    assert scatter_cost.min_tokens([LayerSizes(64, 4096, 2)], 4, RATES["cuda"]) is None


def _ring(op: str, num_rows: int, row_bytes: int, num_ranks: int) -> int:
    """What rank 0 sends in a ring, chunk after chunk: one to its neighbour in each of R - 1 turns, or twice."""
    chunks = [num_rows // num_ranks * row_bytes] * num_ranks
    turns = [chunks[(-turn) % num_ranks] for turn in range(num_ranks - 1)]
    return sum(turns) * (2 if op == "all_reduce" else 1)


@settings(deadline=None)
@given(
    shard=st.integers(1, 200),
    num_ranks=st.sampled_from([2, 3, 4, 8]),
    routed=st.booleans(),
    on_shards=st.booleans(),
    way=st.sampled_from(list(Way)),
)
def test_bytes_are_those_of_rings(shard: int, num_ranks: int, routed: bool, on_shards: bool, way: Way) -> None:
    layer = dataclasses.replace(V3, logits_bytes=1024 * routed, mlp_on_shards=on_shards)
    num_rows = shard * num_ranks
    widths = {"attention input": 2112 * 2, "router logits": 1024}
    found = [part for part in parts(layer, num_rows, num_ranks, way) if part.collective]
    for part in found:
        row_bytes = widths.get(part.name, 7168 * 2)
        assert part.sent == _ring(part.collective, num_rows, row_bytes, num_ranks), part
    calls = {Way.PLAIN: 2, Way.SCATTERED: 3, Way.FULL: 4 + routed}
    assert len(found) == (2 if on_shards else calls[way])


@pytest.mark.parametrize("way", list(Way))
def test_work_is_that_of_the_operators(way: Way) -> None:
    """Counted by torch: products of the projection; tensors that the norm reads and writes."""
    num_rows, num_ranks = 64, 4
    layer = LayerSizes(hidden=96, gathered=40, element_bytes=2)
    held = num_rows if way is Way.PLAIN else num_rows // num_ranks
    by_name = {part.name: part for part in parts(layer, num_rows, num_ranks, way)}
    with FlopCounterMode(display=False) as counter:
        torch.empty(held, 96) @ torch.empty(96, 40)
    assert by_name["projection"].flops == counter.get_total_flops()
    x, residual = (torch.zeros(held, 96, dtype=torch.bfloat16) for _ in range(2))
    tensors = [x, residual, *add_rms_norm(x, residual, torch.ones(96, dtype=torch.bfloat16), 1e-6)]
    assert by_name["input norm"].moved == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    second = by_name["post-attention norm"]
    assert second.moved == by_name["input norm"].moved * (num_ranks if way is Way.SCATTERED else 1)


def test_known_bytes_of_deepseek_v3() -> None:
    """MB a rank and layer at TP8 with 16384 rows, as docs/internals/attn_scatter.md has them."""
    routed = dataclasses.replace(V3, logits_bytes=1024)
    sent = {way: sum(part.sent for part in parts(V3, 16384, 8, way)) for way in Way}
    assert [round(sent[way] / 1e6, 1) for way in Way] == [822.1, 677.1, 677.1]
    wire = parts(routed, 16384, 8, Way.FULL, fp8_wire=True)
    assert round(sum(part.sent for part in wire) / 1e6, 1) == 592.2
    assert [part.name for part in wire if part.name.startswith("FP8")] == ["FP8 coding", "FP8 decoding"]


@pytest.mark.parametrize("name", KNOWN)
def test_times_of_layers_add_up(name: str) -> None:
    rates, layers = KNOWN[name].rates, [V3, dataclasses.replace(V3, logits_bytes=1024)]
    for way in Way:
        once, twice = (scatter_cost.layers_time(layers * n, 1024, 8, rates, way) for n in (1, 2))
        assert list(once) == list(twice)
        for part, time in once.items():
            assert twice[part].seconds == pytest.approx(2 * time.seconds)
            assert twice[part].num_calls == 2 * time.num_calls
    if rates.fp8 is None:
        with pytest.raises(ValueError, match="multiplies no fp8 matrices"):
            scatter_cost.layers_time(layers, 1024, 8, rates, Way.PLAIN, weights="fp8")
