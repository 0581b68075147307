# SPDX-License-Identifier: Apache-2.0
"""Runs one rank of `test_layers_hccl`.

Runs scattered layers over HCCL and compares with one process in float64; reports the largest relative error.
"""

from __future__ import annotations

import itertools

import torch

from tests.attn_scatter.layers import LayerWeights, norm_of, rms_norm
from tests.support.npu_ranks import RankProcess
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter
from vllm_ascend_ext.attn_scatter.row_layouts import PartialSum
from vllm_ascend_ext.collectives.collectives import Collectives

HIDDEN, LATENT, EXPERTS = 48, 20, 8
KINDS = ("dense", "routed", "shards")


def error(group: Collectives, num_rows: int, full: bool, uneven: bool) -> float:
    """Returns the error of a forward pass, relative to the largest value of a row."""
    model = [LayerWeights.random(i, kind, HIDDEN, LATENT, EXPERTS) for i, kind in enumerate(KINDS)]
    generator = torch.Generator().manual_seed(num_rows)
    addends = torch.randn(group.num_ranks, num_rows, HIDDEN, generator=generator)
    x, residual, positions = addends.double().sum(0), None, torch.arange(num_rows)
    for layer in model:
        x, residual = layer.to(torch.float64).whole(x, residual, positions)
    exact = rms_norm(x + residual, model[0].input_H.double())

    def on_device(layer: LayerWeights) -> LayerWeights:
        values = (getattr(layer, name) for name in layer.__dataclass_fields__)
        return LayerWeights(*(v.npu() if isinstance(v, torch.Tensor) else v for v in values))

    ours, scatter = [on_device(layer) for layer in model], AttentionScatter(group, full=full, uneven=uneven)
    stream, rows = scatter.enter(PartialSum(addends[group.rank].npu(), "embedding")), positions.npu()
    for layer in ours:
        stream = scatter.layer(layer.parts(group.rank, group.num_ranks), stream, rows)
    found = scatter.leave(stream, norm_of(ours[0].input_H)).tensor.cpu()
    assert found.shape == exact.shape
    if not num_rows:
        return 0.0
    return float(((found.double() - exact).abs() / exact.abs().amax(1, keepdim=True)).max())


def main() -> None:
    process = RankProcess()
    group = Collectives(process.new_group(), 60.0, "scatter", stream_ordered=True)
    errors = []
    for _ in process.schedules():
        ways = itertools.product((0, 1, 2, 5, 8), (False, True), (False, True))
        errors += [error(group, *way) for way in ways]
    process.report(error=max(errors), operations=sorted(group.traffic()))


if __name__ == "__main__":
    main()
