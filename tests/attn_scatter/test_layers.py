# SPDX-License-Identifier: Apache-2.0
"""Scattered layers on several ranks equal the same layers in one process, row for row, whatever the row count."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tests.attn_scatter.layers import EPS, LayerWeights, norm_of, rms_norm
from tests.support.gloo_ranks import run_ranks
from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter, LayerParts, Norm, ScatteredStream
from vllm_ascend_ext.attn_scatter.row_layouts import LayoutError, PartialSum, Replicated, RowShard, RowSplit
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.attn_scatter.model import check_agreement
from vllm_ascend_ext.integration.errors import StartupError

pytestmark = pytest.mark.distributed

HIDDEN, LATENT, EXPERTS = 48, 20, 8
KINDS = ("dense", "routed", "shards")
WAYS = ({}, {"full": True}, {"full": True, "fp8_wire": True})
OPTIONS = [way | odd_rows for way in WAYS for odd_rows in ({}, {"uneven": True})]


def _model(latent: int | None, num_layers: int = 4) -> list[LayerWeights]:
    kinds = itertools.cycle(KINDS)
    return [LayerWeights.random(i, next(kinds), HIDDEN, latent, EXPERTS) for i in range(num_layers)]


def _input(num_rows: int, num_ranks: int) -> torch.Tensor:
    """[R, T, H]: the addends of the ranks."""
    return torch.randn(num_ranks, num_rows, HIDDEN, generator=torch.Generator().manual_seed(num_rows))


def _whole(
    model: list[LayerWeights], x: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(normed rows after the last layer, sums after each layer), in one process."""
    x, residual, sums = x.to(dtype), None, []
    positions = torch.arange(x.shape[0])
    for layer in model:
        x, residual = layer.to(dtype).whole(x, residual, positions)
        sums.append(x + residual)
    return rms_norm(sums[-1], model[0].input_H.to(dtype)), sums


def _scattered(scatter: AttentionScatter, model: list[LayerWeights], hidden: PartialSum | Replicated, group):
    positions = torch.arange(hidden.tensor.shape[0])
    stream, sums = scatter.enter(hidden), []
    for layer in model:
        stream = scatter.layer(layer.parts(group.rank, group.num_ranks), stream, positions)
        sums.append(scatter.complete(stream).tensor)
    return scatter.leave(stream, norm_of(model[0].input_H)).tensor, sums


def _relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error against the largest value of the row."""
    if not exact.numel():
        return 0.0
    scale = exact.abs().amax(1, keepdim=True)
    return float(((found.double() - exact).abs() / scale).max())


def _check(
    group: Collectives, num_rows: int, latent: int | None, options: dict[str, bool], owes_sum: bool
) -> None:
    model, addends = _model(latent), _input(num_rows, group.num_ranks)
    total = addends.double().sum(0)
    hidden = (
        PartialSum(addends[group.rank].clone(), "embedding")
        if owes_sum
        else Replicated(total.float(), "embedding")
    )
    before = hidden.tensor.clone()
    found, sums = _scattered(AttentionScatter(group, **options), model, hidden, group)
    assert torch.equal(hidden.tensor, before)
    exact, exact_sums = _whole(model, total if owes_sum else total.float().double(), torch.float64)
    assert found.shape == exact.shape
    bound = 0.1 if options.get("fp8_wire") else 1e-6
    for a, b in zip([found, *sums], [exact, *exact_sums], strict=True):
        assert _relative_error(a, b) <= bound, (num_rows, latent, options, owes_sum)


def _layers(rank: int, num_examples: int) -> None:
    group = Collectives(dist.group.WORLD, 60.0, "scatter")
    for num_rows in (0, 1, 2, group.num_ranks - 1, group.num_ranks, group.num_ranks + 1):
        for options in OPTIONS:
            _check(group, num_rows, LATENT, options, owes_sum=True)

    # one seed and no memory: all ranks draw the same examples
    @settings(max_examples=num_examples, deadline=None, database=None)
    @seed(group.num_ranks)
    @given(
        num_rows=st.integers(0, 67),
        latent=st.sampled_from([LATENT, None]),
        options=st.sampled_from(OPTIONS),
        owes_sum=st.booleans(),
    )
    def any_count(num_rows: int, latent: int | None, options: dict[str, bool], owes_sum: bool) -> None:
        _check(group, num_rows, latent, options, owes_sum)

    any_count()


@pytest.mark.parametrize("num_ranks", [2, 3, 4, pytest.param(8, marks=pytest.mark.slow)])
def test_scattered_layers_equal_one_process(num_ranks: int) -> None:
    run_ranks(_layers, num_ranks, 10)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [3, 8])
def test_many_counts(num_ranks: int) -> None:
    run_ranks(_layers, num_ranks, 40, deadline_s=400)


def _sent(group: Collectives) -> int:
    sent = sum(counts["bytes"] for counts in group.traffic().values())
    group.reset_traffic()
    return sent


def _bytes_of_steps(rank: int) -> None:
    """Every part of a forward pass sends what the cost model says, exactly."""
    group = Collectives(dist.group.WORLD, 60.0, "scatter")
    for latent, options, dtype in itertools.product((LATENT, None), OPTIONS, (torch.float32, torch.bfloat16)):
        model, scatter = [layer.to(dtype) for layer in _model(latent)], AttentionScatter(group, **options)
        size = torch.empty(0, dtype=dtype).element_size()
        sizes = [
            LayerSizes(HIDDEN, latent or HIDDEN, size, EXPERTS * size * (m.kind == "routed"), m.kind == "shards")
            for m in model
        ]
        for num_rows, owes_sum in itertools.product((0, 1, 7, 64), (False, True)):
            x = _input(num_rows, group.num_ranks)[rank].to(dtype)
            hidden = PartialSum(x, "embedding") if owes_sum else Replicated(x, "embedding")
            group.reset_traffic()
            stream = scatter.enter(hidden)
            for layer in model:
                stream = scatter.layer(layer.parts(rank, group.num_ranks), stream, torch.arange(num_rows))
            scatter.leave(stream, norm_of(model[0].input_H))
            predicted = scatter_cost.scattered_forward(
                sizes, num_rows, group.num_ranks, entry_owes_sum=owes_sum, rank=rank, **options
            )
            # the last layer is of kind `dense`: its reduce-scatter is the last norm's
            assert _sent(group) == predicted, (latent, options, dtype, num_rows, owes_sum)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_bytes_are_those_predicted(num_ranks: int) -> None:
    run_ranks(_bytes_of_steps, num_ranks)


V3 = LayerSizes(hidden=7168, gathered=1536 + 512 + 64, element_bytes=2)
V3_ROUTED = LayerSizes(V3.hidden, V3.gathered, V3.element_bytes, logits_bytes=256 * 4)


def _bytes_of_a_v3_layer(rank: int, num_rows: int) -> list[int]:
    """Bytes of a layer of DeepSeek-V3's widths: plain, scattered, full with FP8 wire, the same with a router."""
    group = Collectives(dist.group.WORLD, 60.0, "scatter")
    x = torch.ones(num_rows, V3.hidden, dtype=torch.bfloat16)
    group.all_reduce_(x.clone())
    group.all_reduce_(x.clone())
    sent = [_sent(group)]
    identity = Norm(torch.ones(V3.hidden, dtype=torch.bfloat16), EPS, lambda rows: rows)
    for options, route in (
        ({}, None),
        ({"full": True, "fp8_wire": True}, None),
        ({"full": True, "fp8_wire": True}, lambda rows: rows[:, :256].float()),
    ):
        parts = LayerParts(
            "a layer",
            identity,
            lambda rows: rows[:, : V3.gathered],
            lambda latent, positions: latent.repeat(1, 4)[:, : V3.hidden],
            identity,
            lambda rows, logits: rows,
            route=route,
        )
        scatter, split = AttentionScatter(group, **options), RowSplit.even(num_rows, group.num_ranks)
        own = RowShard(torch.ones(split.held(rank), V3.hidden, dtype=torch.bfloat16), "residual", split, rank)
        scatter.layer(parts, ScatteredStream(PartialSum(x, "output"), own), torch.arange(num_rows))
        sent.append(_sent(group))
    return sent


def test_bytes_of_a_deepseek_v3_layer() -> None:
    """At TP8: measured with 64 rows, and the formula takes them to 16384, in MB."""
    num_rows, at = 64, 16384
    modes = (
        (scatter_cost.plain_layer, V3, {}, 822.1),
        (scatter_cost.scattered_layer, V3, {}, 677.1),
        (scatter_cost.scattered_layer, V3, {"full": True, "fp8_wire": True}, 577.6),
        (scatter_cost.scattered_layer, V3_ROUTED, {"full": True, "fp8_wire": True}, 592.2),
    )
    for sent in run_ranks(_bytes_of_a_v3_layer, 8, num_rows):
        for measured, (predict, layer, options, megabytes) in zip(sent, modes, strict=True):
            assert measured == predict(layer, num_rows, 8, **options)
            assert measured * at // num_rows == predict(layer, at, 8, **options)
            assert round(measured * at / num_rows / 1e6, 1) == megabytes


def _misuse(rank: int) -> None:
    group = Collectives(dist.group.WORLD, 60.0, "scatter")
    scatter, (layer, *_) = AttentionScatter(group), _model(LATENT)
    x = torch.ones(4, HIDDEN)
    stream = ScatteredStream(PartialSum(x, "output"), Replicated(torch.ones(6, HIDDEN), "residual"))
    with pytest.raises(LayoutError, match=r"cannot add output .*\[2, 2\].* and residual .*\[3, 3\]"):
        scatter.layer(layer.parts(rank, 2), stream, torch.arange(4))
    with pytest.raises(ValueError, match="only full=True has"):
        AttentionScatter(group, fp8_wire=True)


def test_misuse_raises() -> None:
    run_ranks(_misuse, 2)


def _disagree(rank: int) -> None:
    ranks = Collectives(dist.group.WORLD, 60.0, "scatter")
    odd, others = rank == 2, [0, 1] if rank == 2 else [2]
    same = {"enabled": True}, 130, [LayerSizes(HIDDEN, LATENT, 4)]
    for section, threshold, sizes in (
        ({"enabled": True, "full": odd}, *same[1:]),
        ({"enabled": True, "full": True, "fp8_wire": odd}, *same[1:]),
        (same[0], 131 if odd else 130, same[2]),
        (same[0], None if odd else 130, same[2]),
        (*same[:2], [LayerSizes(HIDDEN, LATENT + odd, 4)]),
    ):
        config = AttnScatterConfig(**section)
        with pytest.raises(StartupError, match=rf"world ranks {re.escape(str(others))} have another attn_scatter"):
            check_agreement(ranks, config, threshold, sizes, torch.device("cpu"))
    check_agreement(ranks, AttnScatterConfig(**same[0]), *same[1:], torch.device("cpu"))
    assert not ranks.traffic()


def test_ranks_that_would_scatter_differently_are_named() -> None:
    run_ranks(_disagree, 3)
