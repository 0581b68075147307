# SPDX-License-Identifier: Apache-2.0
import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter.cost import RATES, LayerSizes, Rates

V3 = LayerSizes(hidden=7168, gathered=2112, element_bytes=2)


def _seconds(layer: LayerSizes, num_rows: int, num_ranks: int, rates: Rates, *, scattered: bool) -> float:
    """A layer's time, from its description."""
    rows = num_rows / num_ranks if scattered else num_rows
    bytes_of = scatter_cost.scattered_layer if scattered else scatter_cost.plain_layer
    work = 4 * layer.hidden * layer.element_bytes * rows / rates.memory
    work += 2 * layer.hidden * layer.gathered * rows / rates.flops
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
