# SPDX-License-Identifier: Apache-2.0
"""Moves rows of all replicas to the experts and back, following a `GatherPlan`.

Shapes: C = rows of this replica, S = rows that this rank holds (C, rounded up, divided among the replica's
attention-TP ranks), N = rows of the buffer that the experts read, H = row width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.collectives.rows import padded
from vllm_ascend_ext.dp_gather.plan import GatherPlan
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode
from vllm_ascend_ext.ops.dp_rows import dp_pad, dp_unpad


class PlanError(RuntimeError):
    """Reports that rows do not fit the plan in force, that none is in force, or that one is already."""


class DpGather:
    """Exchanges rows under a plan. No input is changed.

    Args:
        ranks: all ranks of the gather, replica by replica.
        attn_tp: the attention-TP ranks of this replica; None when a replica's rows are not split.
    """

    def __init__(self, ranks: Collectives, attn_tp: Collectives | None = None) -> None:
        self._ranks = ranks
        self._attn_tp = attn_tp
        self._tp_size = 1 if attn_tp is None else attn_tp.num_ranks
        self._plan: GatherPlan | None = None

    @property
    def groups(self) -> list[Collectives]:
        """Returns the groups of ranks among which rows are exchanged."""
        return [self._ranks] if self._attn_tp is None else [self._ranks, self._attn_tp]

    @property
    def rank(self) -> int:
        """Returns this process's rank in the group of the gather."""
        return self._ranks.rank

    @property
    def plan(self) -> GatherPlan:
        """Returns the plan in force.

        Raises:
            PlanError: there is none.
        """
        if self._plan is None:
            raise PlanError("no gather plan is in force here: rows are exchanged inside `under(plan)`")
        return self._plan

    @contextmanager
    def under(self, plan: GatherPlan) -> Iterator[GatherPlan]:
        """Puts `plan` in force for the block; after it, however it ends, none is.

        Raises:
            PlanError: one is in force already, or it is for other ranks.
        """
        if self._plan is not None:
            raise PlanError("a gather plan is in force already")
        topology = plan.topology
        if (topology.num_ranks, topology.attn_tp_size) != (self._ranks.num_ranks, self._tp_size):
            raise PlanError(
                f"the plan is for {topology.dp_size} replicas of {topology.attn_tp_size} ranks; this gather has "
                f"{self._ranks.num_ranks} ranks, {self._tp_size} a replica"
            )
        self._plan = plan
        try:
            yield plan
        finally:
            self._plan = None

    def slice_replicated(self, x_CH: torch.Tensor) -> torch.Tensor:
        """Returns this rank's part of rows that all attention-TP ranks hold alike.

        Args:
            x_CH: ``[C, H]``.

        Returns:
            ``[S, H]``, zero where the rounding added rows.

        Raises:
            PlanError: as all operations here, when the rows do not fit the plan.
        """
        self._check_rows("slice_replicated", x_CH, self._num_own_rows())
        if self._attn_tp is None:
            return x_CH
        held = self._num_held()
        first = min(self._attn_tp.rank * held, x_CH.shape[0])
        own_TH = x_CH[first : first + held]
        return own_TH if own_TH.shape[0] == held else _pad(own_TH, 0, held)

    def reduce_partial(self, x_CH: torch.Tensor) -> torch.Tensor:
        """Returns this rank's part of the sum of rows of which each attention-TP rank holds an addend.

        Args:
            x_CH: ``[C, H]``.

        Returns:
            ``[S, H]``, zero where the rounding added rows.
        """
        self._check_rows("reduce_partial", x_CH, self._num_own_rows())
        if self._attn_tp is None:
            return x_CH
        held = self._num_held()
        rounded = held * self._tp_size
        whole = x_CH.contiguous() if x_CH.shape[0] == rounded else _pad(x_CH, 0, rounded)
        own_SH = x_CH.new_empty(held, x_CH.shape[1])
        self._attn_tp.reduce_scatter_into(own_SH, whole)
        return own_SH

    def join(self, x_SH: torch.Tensor) -> torch.Tensor:
        """Joins the parts of the attention-TP ranks into the replica's rows: ``[S, H]`` to ``[C, H]``."""
        self._check_rows("join", x_SH, self._num_held())
        if self._attn_tp is None:
            return x_SH
        whole = x_SH.new_empty(x_SH.shape[0] * self._tp_size, x_SH.shape[1])
        self._attn_tp.all_gather_into(whole, x_SH.contiguous())
        return whole[: self._num_own_rows()]

    def gather(self, x_SH: torch.Tensor, fill: int = 0) -> torch.Tensor:
        """Gathers the rows of all ranks, bit by bit as they are there.

        Args:
            x_SH: ``[S, H]``, any dtype.
            fill: value of the padding rows, those included that the rounding added.

        Returns:
            ``[N, H]``, in the order of the ranks.
        """
        rows, rank = self.plan.rows, self._ranks.rank
        self._check_rows("gather", x_SH, rows.held[rank])
        bits = _bits(x_SH)
        if self.plan.mode is GatherMode.VARIABLE:
            out = self._ranks.all_gather_variable(bits, rows.placed)
        elif self.plan.mode is GatherMode.SUM_LEN:
            out = _pad(bits, rows.offsets[rank], rows.num_rows)
            self._ranks.all_reduce_(out)  # of integers, to which zeros are added: exact
        else:
            out = bits.new_empty(rows.num_rows, bits.shape[1])
            placed = rows.placed[rank]
            sent = bits if bits.shape[0] == placed else _pad(bits, 0, placed)
            self._ranks.all_gather_into(out, sent)
        out_NH = out.view(x_SH.dtype)
        if fill:
            self.fill_padding_(out_NH, fill)
        return out_NH

    def combine(self, x_NH: torch.Tensor) -> torch.Tensor:
        """Returns this rank's rows of the sum over all ranks: ``[N, H]`` to ``[S, H]``."""
        rows, rank = self.plan.rows, self._ranks.rank
        self._check_rows("combine", x_NH, rows.num_rows)
        if self.plan.mode is GatherMode.VARIABLE:
            return self._ranks.reduce_scatter_variable(x_NH.contiguous(), rows.placed)
        if self.plan.mode is GatherMode.SUM_LEN:
            total = x_NH.clone(memory_format=torch.contiguous_format)
            self._ranks.all_reduce_(total)
            return dp_unpad(total, rows.held[rank], rows.offsets[rank])
        own = x_NH.new_empty(rows.placed[rank], x_NH.shape[1])
        self._ranks.reduce_scatter_into(own, x_NH.contiguous())
        return own[: rows.held[rank]]

    def drop_padding(self, x_NH: torch.Tensor) -> torch.Tensor:
        """Returns the real rows of a buffer, where experts take every row for one: ``[N, H]`` to ``[sum(counts),
        H]``."""
        rows = self.plan.rows
        self._check_rows("drop_padding", x_NH, rows.num_rows)
        if not rows.num_pad_rows:
            return x_NH
        starts = zip(rows.offsets, rows.real, strict=True)
        return torch.cat([x_NH[offset : offset + real] for offset, real in starts])

    def restore_padding(self, x: torch.Tensor) -> torch.Tensor:
        """Undoes `drop_padding`; padding rows are zero."""
        rows = self.plan.rows
        self._check_rows("restore_padding", x, sum(self.plan.counts))
        if not rows.num_pad_rows:
            return x
        parts = zip(accumulate(rows.real), rows.real, rows.placed, strict=True)
        return torch.cat([padded(x[end - real : end], placed) for end, real, placed in parts])

    def fill_padding_(self, x_NH: torch.Tensor, value: int) -> None:
        """Sets the padding rows of a buffer ``[N, ...]``; expert ids of -1 are routed nowhere."""
        for begin, end in self.plan.rows.pad_spans():
            x_NH[begin:end] = value

    def _num_own_rows(self) -> int:
        return self.plan.counts[self._ranks.rank // self._tp_size]

    def _num_held(self) -> int:
        return self.plan.rows.held[self._ranks.rank]

    def _check_rows(self, what: str, x: torch.Tensor, num_rows: int) -> None:
        if x.dim() != 2 or x.shape[0] != num_rows:
            raise PlanError(
                f"{what} on rank {self._ranks.rank}: shape {list(x.shape)}, but the plan for "
                f"{list(self.plan.counts)} rows by {self.plan.mode.value} needs [{num_rows}, H]"
            )


def _pad(x: torch.Tensor, offset: int, total: int) -> torch.Tensor:
    """Pads all rows by `dp_pad`, for any element size."""
    if x.element_size() > 4:
        return dp_pad(x.contiguous().view(torch.int32), x.shape[0], offset, total).view(x.dtype)
    return dp_pad(x, x.shape[0], offset, total)


def _bits(x_SH: torch.Tensor) -> torch.Tensor:
    """Views the same memory as integers, which every backend adds exactly: -0.0 and NaN survive a sum with
    zero."""
    row = x_SH.contiguous()
    row_bytes: int = row.shape[1] * row.element_size()
    return row.view(torch.int32 if row_bytes % 4 == 0 else torch.int8)
