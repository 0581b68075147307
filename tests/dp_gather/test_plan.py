# SPDX-License-Identifier: Apache-2.0
"""Gather plans: rows that add up, SGLang's comparison and known cases of it, prices, machine descriptions."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.collectives import sent_bytes
from vllm_ascend_ext.dp_gather import machine as machines
from vllm_ascend_ext.dp_gather.machine import Curve, MachineError, describe, read
from vllm_ascend_ext.dp_gather.plan import make_plan
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths, price
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology, lay_out

MAX_LEN, SUM_LEN, VARIABLE = GatherMode
V3 = RowWidths((7168 * 2, 256 * 4), 7168 * 2)

counts_of = st.integers(1, 8).flatmap(lambda dp: st.lists(st.integers(0, 300), min_size=dp, max_size=dp))


@given(counts=counts_of, tp=st.integers(1, 8), mode=st.sampled_from(list(GatherMode)))
def test_rows_cover_the_buffer_once(counts, tp, mode):
    topology = Topology(len(counts), tp)
    rows = lay_out(counts, topology, mode)
    ends = [offset + placed for offset, placed in zip(rows.offsets, rows.placed, strict=True)]
    assert [0, *ends[:-1]] == list(rows.offsets) and ends[-1] == rows.num_rows
    assert rows.num_rows == sum(rows.padded)
    for replica, count in enumerate(counts):
        ranks = slice(replica * tp, (replica + 1) * tp)
        assert sum(rows.real[ranks]) == count
        assert 0 <= sum(rows.held[ranks]) - count < tp and len(set(rows.held[ranks])) == 1
        assert sum(rows.placed[ranks]) == rows.padded[replica]
    for real, held, placed in zip(rows.real, rows.held, rows.placed, strict=True):
        assert real <= held <= placed and (mode is MAX_LEN or held == placed)
    inside = {row for begin, end in rows.pad_spans() for row in range(begin, end)}
    assert len(inside) == rows.num_pad_rows == rows.num_rows - sum(counts)
    if mode is MAX_LEN:
        assert len(set(rows.placed)) == 1


@given(counts=counts_of, tp=st.integers(1, 8))
def test_auto_is_sglangs_comparison(counts, tp):
    plan = make_plan(counts, Topology(len(counts), tp), V3)
    rounded = [-(-count // tp) * tp for count in counts]
    expected = MAX_LEN if 2 * sum(rounded) >= max(rounded) * len(counts) else SUM_LEN
    assert plan.mode is expected and plan.counts == tuple(counts)
    assert make_plan(counts, Topology(len(counts), tp), V3, in_graph=True).mode is MAX_LEN


@pytest.mark.parametrize(
    ("counts", "mode"),
    [
        ([64] * 8, MAX_LEN),  # balanced decode
        ([16384, 32, 32, 32, 32, 32, 32, 32], SUM_LEN),  # one long prefill (#28216)
        ([8, 0, 0, 0], SUM_LEN),
        ([8, 8, 0, 0], MAX_LEN),  # the tie, MAX_LEN since #20406
        ([4096] * 3, MAX_LEN),  # with prompts SGLang 0.5.23 takes SUM_LEN before it compares
        ([0, 0], MAX_LEN),
        ([5], MAX_LEN),
    ],
)
def test_known_cases(counts, mode):
    assert make_plan(counts, Topology(len(counts)), V3).mode is mode


@given(counts=counts_of, tp=st.integers(1, 4), data=st.data())
def test_the_cheapest_is_chosen(counts, tp, data):
    topology = Topology(len(counts), tp)
    machine = describe(data.draw(st.sampled_from(sorted(machines.NAMED))), topology.num_ranks)
    plan = make_plan(counts, topology, V3, rule="cost", machine=machine)
    seconds = [candidate.cost.seconds for candidate in plan.candidates]
    assert plan.chosen.cost.seconds == min(seconds)
    assert [candidate.mode for candidate in plan.candidates] == list(GatherMode)
    assert plan == make_plan(list(counts), topology, V3, rule="cost", machine=machine)  # nothing but the inputs
    for mode in GatherMode:
        assert make_plan(counts, topology, V3, mode=mode).mode is mode


def test_cost_sees_what_the_gather_leg_hides():
    """SGLang's comparison keeps MAX_LEN for 2:1, where variable rows save a quarter of bytes and rows."""
    counts = [32768, 16384] * 4
    machine = describe("mi355x", 8)
    assert make_plan(counts, Topology(8), V3).mode is MAX_LEN
    plan = make_plan(counts, Topology(8), V3, rule="cost", machine=machine)
    assert plan.mode is VARIABLE and "variable is the fastest of max_len" in plan.reason


def test_named_machines_give_the_measured_times():
    """#28216, MI355X x 8, 7168 bfloat16: 8 x 16384 rows take 4.513 (AG), 8.807 (AR), 5.248 (AGv) ms."""
    widths = RowWidths((7168 * 2,))
    expected_ms = {MAX_LEN: 4.513, SUM_LEN: 8.807, VARIABLE: 5.248}
    for mode, milliseconds in expected_ms.items():
        cost = price(mode, lay_out([16384] * 8, Topology(8), mode), widths, describe("mi355x", 8))
        assert cost.seconds * 1e3 == pytest.approx(milliseconds, rel=0.02)


def test_bytes_of_deepseek_v3():
    """Published volumes of a TP8 layer at 16384 rows: 411.0 MB all-reduced, 205.5 MB scattered."""
    whole = 16384 * 7168 * 2
    assert round(sent_bytes.all_reduce(whole, 8) / 1e6, 1) == 411.0
    assert round(sent_bytes.reduce_scatter(whole, 8) / 1e6, 1) == 205.5
    assert sent_bytes.all_gather(whole // 8, 8) == sent_bytes.reduce_scatter(whole, 8)


def test_prices_by_hand():
    widths = RowWidths((40, 8), 40)
    costs = {mode: price(mode, lay_out([3, 1], Topology(2), mode), widths) for mode in GatherMode}
    assert costs[MAX_LEN].gather_bytes == (3 * 48, 3 * 48) and costs[MAX_LEN].combine_bytes == (120, 120)
    assert costs[SUM_LEN].gather_bytes == (192, 192) and costs[SUM_LEN].combine_bytes == (160, 160)
    assert costs[VARIABLE].gather_bytes == (144, 48) and costs[VARIABLE].combine_bytes == (40, 120)
    assert costs[VARIABLE].sent == (184, 168) and costs[VARIABLE].seconds is None


def test_refusals():
    with pytest.raises(ValueError, match="not the rows of 2 replicas"):
        make_plan([1], Topology(2), V3)
    with pytest.raises(ValueError, match="not the rows of 2 replicas"):
        make_plan([1, -1], Topology(2), V3)
    with pytest.raises(ValueError, match="must be positive"):
        Topology(2, 0)
    with pytest.raises(ValueError, match="must be positive"):
        RowWidths(())
    with pytest.raises(ValueError, match="graph has fixed ones"):
        make_plan([1, 1], Topology(2), V3, in_graph=True, mode=SUM_LEN)
    with pytest.raises(MachineError, match="needs the description"):
        make_plan([1, 1], Topology(2), V3, rule="cost")
    with pytest.raises(MachineError, match="describes 4 ranks, not 2"):
        make_plan([1, 1], Topology(2), V3, rule="cost", machine=describe("h20", 4))


def test_plans_never_change():
    plan = make_plan([1, 2], Topology(2), V3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.counts = (2, 2)
    assert isinstance(plan.counts, tuple) and isinstance(plan.rows.padded, tuple)


def test_planning_needs_no_torch():
    code = "import sys, vllm_ascend_ext.dp_gather.plan; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_curves():
    curve = Curve(((100, 1.0), (200, 2.0), (400, 2.5)))
    assert [curve.seconds(x) for x in (0, 100, 150, 200, 300, 400, 600)] == [1, 1, 1.5, 2, 2.25, 2.5, 3]
    for points in (((1, 1.0),), ((2, 1.0), (1, 1.0)), ((1, 1.0), (2, -1.0)), ((1, 1.0), (1, 2.0))):
        with pytest.raises(MachineError, match="ascending"):
            Curve(points)


def test_description_round_trip(tmp_path):
    file = tmp_path / "machine.json"
    machine = describe("h20", 4)
    file.write_text(machine.to_json())
    assert read(file) == machine and describe(str(file), 4) == machine
    with pytest.raises(MachineError, match="measured with 4 ranks and the gather has 2.*--ranks 2"):
        describe(str(file), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "neither a known machine"),
        ({"schema": 9}, "not a machine description of schema 1"),
        ({"extra": 1}, "not a machine description of schema 1"),
        ({"num_ranks": "many"}, "invalid literal"),
        ({"all_reduce": [[0, 1.0]]}, "two or more points"),
        ({"all_reduce": 3}, "not iterable"),
    ],
)
def test_bad_descriptions(tmp_path, change, message):
    file = tmp_path / "machine.json"
    values = json.loads(describe("h20", 4).to_json())
    file.write_text("{" if change is None else json.dumps(values | change))
    with pytest.raises(MachineError, match=message):
        read(file)
    with pytest.raises(MachineError, match="nowhere"):
        describe("nowhere", 2)
