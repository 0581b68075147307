# SPDX-License-Identifier: Apache-2.0
"""Paged caches: operators that go by a block table or by slots beside a transfer of one block, in use or not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.emulator.races.planted import Planted, _side_stream

BLOCKS, BLOCK_SIZE, HEADS, SIZE = 8, 16, 2, 8
TABLE, LENGTHS = ((3, 1, 0), (6, 0, 0)), (20, 9)  # block 0 stands where a request has no block
USED, UNUSED = 1, 5
LATENT, ROPE = 512, 64


def _cache(*row: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(BLOCKS, BLOCK_SIZE, *row, dtype=dtype, device="npu")


def _table() -> torch.Tensor:
    return torch.tensor(TABLE, dtype=torch.int32).npu()


class Attention:
    """Attention of two requests to one paged cache."""

    def __init__(self) -> None:
        self.caches = [_cache(HEADS * SIZE), _cache(HEADS * SIZE)]
        self.table, self.query = _table(), torch.ones(2, HEADS, SIZE, device="npu")

    def __call__(self) -> torch.Tensor:
        import torch_npu

        out, _ = torch_npu.npu_fused_infer_attention_score(
            self.query, *self.caches, input_layout="TND", num_heads=HEADS, num_key_value_heads=HEADS, scale=0.3,
            actual_seq_lengths=[1, 2], actual_seq_lengths_kv=list(LENGTHS), block_table=self.table,
            block_size=BLOCK_SIZE,
        )  # fmt: skip
        return out


class LatentAttention:
    """Attention with one latent key head and its rope part."""

    def __init__(self) -> None:
        self.caches = [torch.zeros(BLOCKS, 1, BLOCK_SIZE, width, device="npu") for width in (LATENT, ROPE)]
        self.table = _table()
        self.query, self.query_rope = (torch.ones(2, 1, 1, width, device="npu") for width in (LATENT, ROPE))

    def __call__(self) -> torch.Tensor:
        import torch_npu

        key, key_rope = self.caches
        out, _ = torch_npu.npu_fused_infer_attention_score_v2(
            self.query, key, key, query_rope=self.query_rope, key_rope=key_rope, num_query_heads=1,
            num_key_value_heads=1, input_layout="BNSD_NBSD", softmax_scale=0.05, block_table=self.table,
            block_size=BLOCK_SIZE, actual_seq_kvlen=list(LENGTHS),
        )  # fmt: skip
        return out


class Indexer:
    """The lightning indexer, whose lengths lie on the device."""

    def __init__(self) -> None:
        self.caches = [_cache(1, 128)]
        self.table, self.query = _table(), torch.ones(2, 1, 128, device="npu")
        self.weights = torch.ones(2, 1, device="npu")
        self.ends, self.lengths = (torch.tensor(of, dtype=torch.int32).npu() for of in ((1, 2), LENGTHS))

    def __call__(self) -> torch.Tensor:
        import torch_npu

        chosen, _ = torch_npu.npu_lightning_indexer(
            self.query, self.caches[0], self.weights, actual_seq_lengths_query=self.ends,
            actual_seq_lengths_key=self.lengths, block_table=self.table, layout_query="TND",
            layout_key="PA_BSND", sparse_count=2, sparse_mode=3,
        )  # fmt: skip
        return chosen


class SlotWrites:
    """Keys and values written to their slots; one token has none."""

    def __init__(self) -> None:
        self.caches = [_cache(HEADS, SIZE), _cache(HEADS, SIZE)]
        self.rows = torch.ones(3, HEADS, SIZE, device="npu")
        self.slots = torch.tensor([USED * BLOCK_SIZE + 3, -1, 6 * BLOCK_SIZE], dtype=torch.int32).npu()

    def __call__(self) -> torch.Tensor:
        import torch_npu

        torch_npu.npu_scatter_pa_kv_cache(self.rows, self.rows, *self.caches, self.slots, cache_mode="Norm")
        return self.rows


class LatentWrites:
    """Latent keys and their rope part written to slots by the operator that makes them."""

    def __init__(self) -> None:
        self.caches = [_cache(1, ROPE), _cache(1, LATENT)]
        self.kv, self.gamma = torch.ones(2, 1, 1, LATENT + ROPE).npu(), torch.ones(LATENT).npu()
        self.angles = [torch.ones(2, 1, 1, ROPE).npu() for _ in range(2)]
        self.slots = torch.tensor([USED * BLOCK_SIZE + 3, -1]).npu()

    def __call__(self) -> torch.Tensor:
        import torch_npu

        *_, latent = torch_npu.npu_kv_rmsnorm_rope_cache(
            self.kv, self.gamma, *self.angles, self.slots, *self.caches, epsilon=1e-6, cache_mode="PA",
            is_output_kv=True,
        )  # fmt: skip
        return latent


class States:
    """States of linear attention, each read and written where its index says."""

    def __init__(self) -> None:
        self.caches = [torch.zeros(BLOCKS, 1, 16, 16, dtype=torch.bfloat16, device="npu")]
        self.operands = {
            name: torch.ones(2, 1, 16, dtype=torch.bfloat16, device="npu") for name in ("query", "key", "value")
        } | {"beta": torch.ones(2, 1, dtype=torch.bfloat16, device="npu")}
        self.lengths, self.indices = (torch.tensor(of, dtype=torch.int32).npu() for of in ((1, 1), (USED, 3)))

    def __call__(self) -> torch.Tensor:
        import torch_npu

        out: torch.Tensor = torch_npu.npu_recurrent_gated_delta_rule(
            **self.operands, state=self.caches[0], actual_seq_lengths=self.lengths, scale=1.0,
            ssm_state_indices=self.indices,
        )  # fmt: skip
        return out


READERS = {"attention": Attention, "latent_attention": LatentAttention, "indexer": Indexer}
WRITERS = {"slots": SlotWrites, "latent_slots": LatentWrites, "states": States}


def load_beside(correct: bool, name: str, captured: bool) -> bool:
    """Loads a block on a side stream while requests attend: one that nobody has, or one of theirs."""
    attend = READERS[name]()
    side, main = _side_stream(), torch.npu.current_stream()
    block = UNUSED if correct else USED
    loaded = [torch.full(cache.shape[1:], 2.0).pin_memory() for cache in attend.caches]
    torch.npu.synchronize()
    step = _captured(attend) if captured else attend
    out = step()
    with torch.npu.stream(side):
        for cache, rows in zip(attend.caches, loaded, strict=True):
            cache[block].copy_(rows, non_blocking=True)
    main.wait_stream(side)
    seen = out.cpu()  # of zeros; the indexer tells places
    return bool((seen == 0).all() or name == "indexer") and bool((attend.caches[0][block].cpu() == 2).all())


def save_beside(correct: bool, name: str, captured: bool) -> bool:
    """Saves a finished block on a side stream while others are written, or that one."""
    write = WRITERS[name]()
    side, main = _side_stream(), torch.npu.current_stream()
    block = UNUSED if correct else USED
    saved = [torch.ones(cache.shape[1:], dtype=cache.dtype).pin_memory() for cache in write.caches]
    torch.npu.synchronize()
    step = _captured(write) if captured else write
    step()
    with torch.npu.stream(side):
        for cache, rows in zip(write.caches, saved, strict=True):
            rows.copy_(cache[block], non_blocking=True)
    main.wait_stream(side)
    torch.npu.synchronize()
    return all(bool((rows == 0).all()) for rows in saved)


def _captured(call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        out = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay


def _planted(run: Callable[[bool, str, bool], bool], name: str, captured: bool) -> Planted:
    def program(correct: bool) -> bool:
        return run(correct, name, captured)

    program.__name__ = f"{run.__name__}_{name}" + ("_captured" if captured else "")
    return Planted(program, ("does not wait for", f"in {run.__name__}", "as the indices say"))


BLOCK_KINDS = [
    *(_planted(load_beside, name, captured) for name in READERS for captured in (False, True)),
    *(_planted(save_beside, name, captured) for name in WRITERS for captured in (False, True)),
]
