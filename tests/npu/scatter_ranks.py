# SPDX-License-Identifier: Apache-2.0
"""One rank of `test_attn_scatter_npu`: RANK, the number of ranks, a folder, and how many schedules.

Runs scattered layers over HCCL and compares with one process in float64; writes the largest relative error and the
races of this rank as JSON into the folder.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.distributed.scatter_layers import LayerWeights, norm_of, rms_norm
from tests.npu.schedules import races, set_seed
from vllm_ascend_ext.collectives import Collectives
from vllm_ascend_ext.parallel.attn_scatter import AttentionScatter
from vllm_ascend_ext.parallel.layout import PartialSum

HIDDEN, LATENT, EXPERTS = 48, 20, 8
KINDS = ("dense", "routed", "shards")


def error(group: Collectives, num_rows: int, full: bool) -> float:
    """Of a forward pass, relative to the largest value."""
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

    ours, scatter = [on_device(layer) for layer in model], AttentionScatter(group, full=full)
    stream, rows = scatter.enter(PartialSum(addends[group.rank].npu(), "embedding")), positions.npu()
    for layer in ours:
        stream = scatter.layer(layer.parts(group.rank, group.num_ranks), stream, rows)
    found = scatter.leave(stream, norm_of(ours[0].input_H)).tensor.cpu()
    return float(((found.double() - exact).abs() / exact.abs().amax(1, keepdim=True)).max())


def main(rank: int, num_ranks: int, folder: str, num_schedules: int) -> None:
    torch.npu.set_device(rank)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_ranks)
    hccl = dist.new_group(backend="hccl", timeout=timedelta(seconds=60))
    group = Collectives(hccl, 60.0, "scatter", stream_ordered=True)
    errors = []
    for schedule in range(num_schedules):
        if num_schedules > 1:
            set_seed(1 + schedule * num_ranks + rank)
        errors += [error(group, num_rows, full) for num_rows in (1, 2, 5, 8) for full in (False, True)]
    Path(folder, f"{rank}.json").write_text(json.dumps({"error": max(errors), "races": races()}))
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
