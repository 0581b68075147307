# SPDX-License-Identifier: Apache-2.0
"""Descriptions of machines: every number has a source, and groups of ranks get the links that they have."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.machines.known import A2, A3, A3_ROCE, KNOWN
from vllm_ascend_ext.machines.rates import Rates

FIELDS = {field.name for field in dataclasses.fields(Rates)} - {"name"}
# gameofdimension/limulidae, eight 910B: ranks -> GB/s of data by all-gather and by all-reduce
MEASURED_910B = {2: (38, 18), 4: (64, 30), 8: (149, 72)}


@pytest.mark.parametrize("name", KNOWN)
def test_every_number_has_a_source(name):
    machine = KNOWN[name]
    assert machine.name == name and machine.title
    fields = [figure.field for figure in machine.figures]
    assert len(set(fields)) == len(fields) and set(fields) <= FIELDS
    assert {"flops", "memory", "link", "collective_s", "launch_s"} <= set(fields)
    for figure in machine.figures:
        assert figure.published > 0 and 0 < figure.reached <= 1 and len(figure.source) > 6
    assert machine.rates == machine.rates  # made anew each time, alike


def test_a2_gives_what_was_measured():
    """Of n ranks an all-gather sends (n - 1) / n of its data, an all-reduce twice that."""
    for num_ranks, (gathered, reduced) in MEASURED_910B.items():
        sent = (num_ranks - 1) / num_ranks
        assert A2.rates.send_rate("all_gather", num_ranks) == pytest.approx(gathered * 1e9 * sent, rel=0.16)
        assert A2.rates.send_rate("all_reduce", num_ranks) == pytest.approx(2 * reduced * 1e9 * sent, rel=0.21)


def test_a3_lies_between_what_was_measured():
    """sgl-kernel-npu on eight dies: 125 GB/s combine, 146 GB/s dispatch."""
    assert 125e9 < A3.rates.send_rate("reduce_scatter", 8) < 146e9


def test_beyond_a_node():
    rates = Rates("two nodes", 1e14, 1e12, link=100e9, collective_s=1e-5, hop_s=1e-6, node=8, network=10e9)
    # 16 ranks, a byte of the whole: 7/8 goes within the node, then 1/2 of each rank's eighth over the network
    seconds = 7 / 8 / 100e9 + 1 / 2 / 8 / 10e9
    assert rates.send_rate("all_gather", 16) == pytest.approx(15 / 16 / seconds)
    assert rates.send_rate("all_gather", 8) == 100e9
    assert rates.call_s(16) == pytest.approx(25e-6)
    assert A3_ROCE.rates.send_rate("all_gather", 32) < A3.rates.send_rate("all_gather", 32)
    assert A3_ROCE.rates.send_rate("all_gather", 16) == A3.rates.send_rate("all_gather", 16)


@given(num_ranks=st.integers(2, 64), name=st.sampled_from(sorted(KNOWN)))
def test_links_of_a_group(num_ranks, name):
    rates = KNOWN[name].rates
    for op in ("all_gather", "reduce_scatter", "all_reduce", "all_gather_variable", "reduce_scatter_variable"):
        rate = rates.send_rate(op, num_ranks)
        assert 0 < rate <= max(rates.link, rates.all_reduce or 0, rates.variable or 0)
        if num_ranks < rates.mesh:
            assert rate < rates.send_rate(op, num_ranks + 1)  # one link more
    assert rates.call_s(num_ranks) <= rates.call_s(num_ranks + 1)


def test_units():
    assert A3.rates.matrix("bf16") == A3.rates.flops and A3.rates.matrix("fp8") is None
    assert A3.rates.matrix("int8") > A3.rates.flops
