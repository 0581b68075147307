# SPDX-License-Identifier: Apache-2.0
"""Tells which of the rows that a layer of vllm-ascend routes in the present pass this rank counts.

A replica's rows come with padding at their end. What a layer routes of them depends on the pass's dispatch
(vllm-ascend's `ops/fused_moe/prepare_finalize.py`):

* all-gather: the rows of all replicas, on all ranks. A rank counts those of its own replica, and of the TP ranks,
  which all route them, the first does.
* all-to-all, MC2, fused MC2: a slice of the replica's rows on each of its TP ranks, padded before the cut. A rank
  counts its slice.

Which rows are routed hangs on the padded sizes alone, which a captured graph keeps: `own_rows` may run at capture.
How many of them are real changes with each step: `num_to_count` runs before each, and fills a device scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext.rank_place import RankPlace

# the ways by which a rank routes rows that this file knows
COUNTED_WAYS = ("ALLGATHER", "ALLTOALL", "MC2", "FUSED_MC2")


@dataclass(frozen=True, slots=True)
class CutBefore:
    """Describes how the rows of a replica are cut among its TP ranks before they come to a layer.

    padding: takes the pass's context and the TP size; returns the padding that was put behind the rows, None where
        they were not cut.
    is_local: whether that padding is for this replica alone. All-gather keeps it then, and MC2 pads each rank's
        part on to that of the longest replica.
    """

    padding: Callable[[Any, int], int | None]
    is_local: bool = False


# FlashComm v1 of vllm-ascend 0.23
CUT_BY_FLASHCOMM = CutBefore(
    lambda context, tp_size: int(context.pad_size) if context.flash_comm_v1_enabled else None
)
# vLLM's sequence-parallel experts, which FlashComm v1 of vllm-ascend 0.30 is
CUT_BY_THE_MODEL = CutBefore(lambda context, tp_size: -int(context.num_tokens) % tp_size, is_local=True)
UNCUT = CutBefore(lambda context, tp_size: None)


@dataclass(frozen=True, slots=True)
class Segment:
    """Describes the rows of a replica that a rank counts, without the padding's share.

    first: index of the first of them among the replica's rows.
    size: their number.
    """

    first: int
    size: int

    def num_real(self, num_tokens: int) -> int:
        """Returns how many of the rows are real, where the replica's first `num_tokens` rows are."""
        return min(max(num_tokens - self.first, 0), self.size)


def tp_slice(num_rows: int, place: RankPlace) -> Segment:
    """Returns a TP rank's part of `num_rows` rows, which are cut as `torch.tensor_split` does."""
    size, rest = divmod(num_rows, place.tp_size)
    return Segment(place.tp_rank * size + min(place.tp_rank, rest), size + (place.tp_rank < rest))


def num_to_count(num_tokens: int, place: RankPlace, cut: CutBefore = CUT_BY_FLASHCOMM) -> int:
    """Returns how many rows this rank counts, from the beginning of `own_rows`, in the pass that is about to run.

    Args:
        num_tokens: real rows of this replica; 0 in a dummy pass, which may have no forward context yet.
        place: place of this rank in its engine.
        cut: see `CutBefore`.

    Raises:
        RuntimeError: the pass is dispatched in a way that is not known.
    """
    if num_tokens == 0:
        return 0
    from vllm_ascend.ascend_forward_context import _EXTRA_CTX

    if _dispatch() == "ALLGATHER":
        return num_tokens if place.tp_rank == 0 else 0
    return tp_slice(_num_rows_before_the_cut(_EXTRA_CTX, place.tp_size, cut), place).num_real(num_tokens)


def own_rows(layer: Any, num_routed: int, place: RankPlace, cut: CutBefore = CUT_BY_FLASHCOMM) -> slice:
    """Returns the rows of this rank's segment among those that a layer routes in the present pass.

    Args:
        layer: the layer, for messages.
        num_routed: rows that the layer routes, T of the routed ids ``[T, K]``.
        place: place of this rank in its engine.
        cut: see `CutBefore`.

    Raises:
        RuntimeError: the pass is dispatched in a way that is not known, or the layer routes other rows than that
            way does.
    """
    from vllm_ascend.ascend_forward_context import _EXTRA_CTX

    way = _dispatch()
    if way == "ALLGATHER":
        own, expected = _own_of_gathered(_EXTRA_CTX, place.tp_size, cut)
    else:
        size = tp_slice(_num_rows_before_the_cut(_EXTRA_CTX, place.tp_size, cut), place).size
        own, expected = slice(0, size), size
        if cut.is_local and way != "ALLTOALL":
            expected = max(size, int(_EXTRA_CTX.padded_num_tokens) // place.tp_size)
    if num_routed != expected:
        raise RuntimeError(
            f"ascend_ext.eplb_load: {layer.layer_name} routes {num_routed} rows, where a pass of "
            f"{_EXTRA_CTX.num_tokens} rows that is dispatched by {way} has {expected} on this rank; set "
            "eplb_load.enabled to false and report this"
        )
    return own


def _dispatch() -> str:
    """Returns the name of the present pass's dispatch; raises RuntimeError where it is not known."""
    from vllm_ascend.ascend_forward_context import _EXTRA_CTX

    dispatch = _EXTRA_CTX.moe_comm_type
    if dispatch is None or dispatch.name not in COUNTED_WAYS:
        raise RuntimeError(
            f"ascend_ext.eplb_load: a pass of {_EXTRA_CTX.num_tokens} rows is dispatched by {dispatch}, whose "
            "rows cannot be counted; set eplb_load.enabled to false and report this"
        )
    return str(dispatch.name)


def _num_rows_before_the_cut(context: Any, tp_size: int, cut: CutBefore) -> int:
    """Returns the rows of this replica that its TP ranks share, padding included."""
    num_rows = int(context.num_tokens)
    padding = cut.padding(context, tp_size)
    if padding is not None:  # to a multiple of the TP size
        return num_rows + padding
    if context.moe_comm_type.name == "ALLTOALL":
        return max(num_rows, tp_size)
    return max(num_rows, int(context.padded_num_tokens))


def _own_of_gathered(context: Any, tp_size: int, cut: CutBefore) -> tuple[slice, int]:
    """Returns (this replica's rows among the gathered ones, how many were gathered)."""
    from vllm.distributed import get_dp_group
    from vllm.forward_context import get_forward_context

    group, num_rows = get_dp_group(), int(context.num_tokens)
    replica, num_replicas = int(group.rank_in_group), int(group.world_size)
    padding = cut.padding(context, tp_size)
    if num_replicas == 1:
        return slice(0, num_rows), num_rows + (padding or 0) * cut.is_local
    own_rows_by_plan = getattr(context.moe_comm_method.prepare_finalize, "own_rows_by_plan", None)
    if own_rows_by_plan is not None:  # of `dp_gather`, where it is on
        own: tuple[slice, int] = own_rows_by_plan()
        return own
    if padding is not None:  # gathered over all ranks
        sizes = get_forward_context().dp_metadata.num_tokens_across_dp_cpu.tolist()
        if cut.is_local:
            sizes = [size + -size % tp_size for size in sizes]
        begin = sum(sizes[:replica])
        return slice(begin, begin + sizes[replica]), sum(sizes)
    longest = int(context.max_tokens_across_dp)  # every replica's rows are padded to these
    return slice(replica * longest, replica * longest + num_rows), num_replicas * longest
