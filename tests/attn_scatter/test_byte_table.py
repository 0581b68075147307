# SPDX-License-Identifier: Apache-2.0
"""Bytes that a rank sends in a layer of DeepSeek-V3's widths at TP8, side by side in one run of real collectives.

Others' ways are written down as the collectives that their code makes; engines' tests have counted the same on
the emulator (`tests/attn_scatter/vllm_ascend/`: plain passes and ours in one engine). What experts exchange by
MC2 or all-to-all is the same in all ways and left out.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.attn_scatter.layers import EPS
from tests.support.gloo_ranks import run_ranks
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter, LayerParts, Norm, ScatteredStream
from vllm_ascend_ext.attn_scatter.row_layouts import PartialSum, RowShard, RowSplit
from vllm_ascend_ext.collectives.collectives import Collectives

pytestmark = pytest.mark.distributed

HIDDEN, QUERY, KEY, INDEXER = 7168, 1536, 576, 192
LATENT = QUERY + KEY
NUM_RANKS, NUM_ROWS, AT = 8, 64, 16384
REDUCE, GATHER, SCATTER = "all_reduce", "all_gather", "reduce_scatter"
THEIRS = {
    # o_proj, and experts with the shared one (AscendMoERunner._maybe_reduce_final_output)
    "vllm-ascend 0.23, rows gathered": [(REDUCE, HIDDEN), (REDUCE, HIDDEN)],
    # o_proj; results of the slices (PrepareAndFinalizeWithAll2All.finalize); shared experts
    "vllm-ascend 0.23, rows sent": [(REDUCE, HIDDEN), (GATHER, HIDDEN), (REDUCE, HIDDEN)],
    # AscendMLAImpl._mla_preprocess, o_proj
    "FlashComm v1, dense": [(GATHER, QUERY), (GATHER, KEY), (SCATTER, HIDDEN)],
    # AscendSFAImpl.forward, o_proj
    "FlashComm v1, sparse": [(GATHER, HIDDEN), (SCATTER, HIDDEN)],
    # o_proj, DeepseekV2MoE.forward
    "vLLM 0.23, experts on shards": [(REDUCE, HIDDEN), (GATHER, HIDDEN)],
    # rows before attention, o_proj
    "vLLM 0.33, experts on shards": [(GATHER, HIDDEN), (SCATTER, HIDDEN)],
}
MEGABYTES = {  # as docs/internals/attn_scatter.md has them
    "vllm-ascend 0.23, rows gathered": 822.1,
    "vllm-ascend 0.23, rows sent": 1027.6,
    "FlashComm v1, dense": 266.1,
    "FlashComm v1, sparse": 411.0,
    "vLLM 0.23, experts on shards": 616.6,
    "vLLM 0.33, experts on shards": 411.0,
    "ours, rows gathered or sent": 677.1,
    "ours, FlashComm v1, dense": 266.1,
    "ours, FlashComm v1, sparse": 271.6,
    "ours, experts on shards": 266.1,
}


def _rows(width: int, num_rows: int = NUM_ROWS) -> torch.Tensor:
    return torch.ones(num_rows, width, dtype=torch.bfloat16)


def _collective(group: Collectives, name: str, width: int) -> None:
    whole, own = _rows(width), _rows(width, NUM_ROWS // NUM_RANKS)
    if name == REDUCE:
        group.all_reduce_(whole)
    elif name == GATHER:
        group.all_gather_into(whole, own)
    else:
        group.reduce_scatter_into(own, whole)


def _layer(scatter: AttentionScatter, own: RowShard, *, on_shards: bool) -> None:
    """Runs our layer, which is not the first."""
    identity = Norm(torch.ones(HIDDEN, dtype=torch.bfloat16), EPS, lambda rows: rows)
    parts = LayerParts(
        "a layer",
        identity,
        lambda rows: rows[:, :LATENT],
        lambda latent, positions: latent.repeat(1, 4)[:, :HIDDEN],
        identity,
        lambda rows, logits: rows,
        mlp_on_shards=on_shards,
    )
    before = own if on_shards else PartialSum(_rows(HIDDEN), "output")
    scatter.layer(parts, ScatteredStream(before, own), torch.arange(NUM_ROWS))


def _sent_by_each_way(rank: int) -> dict[str, int]:
    group = Collectives(dist.group.WORLD, 60.0, "scatter")
    scatter, split = AttentionScatter(group), RowSplit.even(NUM_ROWS, NUM_RANKS)

    def shard(width: int) -> RowShard:
        return RowShard(_rows(width, split.held(rank)), "own rows", split, rank)

    def once(width: int) -> None:
        scatter.gather(shard(width))
        _collective(group, SCATTER, HIDDEN)  # FlashComm v1's own

    ways = {name: lambda way=way: [_collective(group, *one) for one in way] for name, way in THEIRS.items()}
    ways |= {
        "ours, rows gathered or sent": lambda: _layer(scatter, shard(HIDDEN), on_shards=False),
        "ours, FlashComm v1, dense": lambda: once(LATENT),
        "ours, FlashComm v1, sparse": lambda: once(LATENT + INDEXER),
        "ours, experts on shards": lambda: _layer(scatter, shard(HIDDEN), on_shards=True),
    }
    sent = {}
    for name, run in ways.items():
        group.reset_traffic()
        run()
        sent[name] = sum(counts["bytes"] for counts in group.traffic().values())
    return sent


def test_bytes_side_by_side() -> None:
    """Measured with 64 rows, which 8 ranks divide as they divide 16384, in MB."""
    for sent in run_ranks(_sent_by_each_way, NUM_RANKS):
        assert {name: round(count * AT / NUM_ROWS / 1e6, 1) for name, count in sent.items()} == MEGABYTES
        ours = sent["ours, experts on shards"]
        assert ours <= 0.65 * sent["vLLM 0.33, experts on shards"]
        assert ours < 0.45 * sent["vLLM 0.23, experts on shards"]
        assert sent["ours, FlashComm v1, sparse"] < 0.67 * sent["FlashComm v1, sparse"]
        assert sent["ours, rows gathered or sent"] < 0.67 * sent["vllm-ascend 0.23, rows sent"]
