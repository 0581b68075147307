# SPDX-License-Identifier: Apache-2.0
"""Computes norms and the first projection of attention on a shard of the rows.

Between two layers the sum over the tensor-parallel ranks is not given to all ranks but reduce-scattered, so that
each rank norms and projects its own rows only, and what is gathered is the narrow result of the projection. With
`full`, the same is done after attention. What a tensor is of the batch is its type (`layout`), all along.

Shapes: R = ranks, T = rows of the batch, P = rows of this rank's shard, H = hidden size, W = width gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vllm_ascend_ext.attn_scatter import fp8_wire
from vllm_ascend_ext.attn_scatter.row_layouts import (
    PartialSum,
    Replicated,
    Rows,
    RowShard,
    RowSplit,
    add,
    add_once,
    own_rows,
)
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.collectives.rows import padded
from vllm_ascend_ext.ops.add_rms_norm import add_rms_norm


@dataclass(frozen=True, slots=True)
class Norm:
    """Holds an RMS norm. weight: ``[H]``; eps: added to the mean of squares; apply: the model's own norm, without
    residual."""

    weight: torch.Tensor
    eps: float
    apply: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class LayerParts:
    """Describes a decoder layer, taken apart where rows change their layout.

    name: the layer's name, for errors.
    project: the part of attention that works row by row and narrows, ``[P, H]`` → ``[P, W]``; None where attention
        begins with a projection split among the ranks, so that the normed rows themselves are gathered (W = H).
    attend: (``[T, W]``, positions) → ``[T, H]``, this rank's addend.
    mlp: (``[T, H]``, router logits or None) → ``[T, H]``, this rank's addend; with `mlp_on_shards`
        (``[ceil(T / R), H]``, None) → the same shape, complete, as of sequence-parallel experts, which exchange
        equally many rows of each rank.
    route: ``[P, H]`` → router logits ``[P, E]``; None for a dense layer and for experts that route inside.
    """

    name: str
    input_norm: Norm
    project: Callable[[torch.Tensor], torch.Tensor] | None
    attend: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    output_norm: Norm
    mlp: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    mlp_on_shards: bool = False
    route: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True, slots=True)
class ScatteredStream:
    """Carries the rows from layer to layer: the last output, and the residual to which that output must still be
    added."""

    hidden: PartialSum | RowShard
    residual: Replicated | RowShard | None


class AttentionScatter:
    """Runs the forward pass of one group of tensor-parallel ranks, on shards where that saves.

    Every rank of the group makes the same calls with the same number of rows, zero allowed.

    Args:
        collectives: the collectives of the group.
        full: reduce-scatter after attention too, so that the second norm and the router run on the shard.
        fp8_wire: the gather before the experts or the MLP, which `full` needs, carries FP8 (`fp8_wire`). Router
            logits come from the exact rows and are gathered as they are.
        uneven: where R does not divide the rows, shards hold the own rows only, and are exchanged by variable
            collectives; otherwise they are padded with zero rows to ceil(T / R).
    """

    def __init__(
        self, collectives: Collectives, *, full: bool = False, fp8_wire: bool = False, uneven: bool = False
    ) -> None:
        if fp8_wire and not full:
            raise ValueError("fp8_wire belongs to the gather before the experts, which only full=True has")
        self.collectives = collectives
        self.rank, self.num_ranks = collectives.rank, collectives.num_ranks
        self.full, self.fp8_wire, self.uneven = full, fp8_wire, uneven

    def enter(self, hidden: PartialSum | Replicated) -> ScatteredStream:
        """Scatters the embedding's rows: reduce-scatters an addend, slices rows that are complete."""
        return ScatteredStream(self._shard(hidden), None)

    def layer(self, parts: LayerParts, stream: ScatteredStream, positions: torch.Tensor) -> ScatteredStream:
        """Runs one decoder layer.

        Args:
            positions: ``[T]``, handed on to `LayerParts.attend`.

        Raises:
            LayoutError: `stream` does not fit together.
            CollectiveError: of a collective.
        """
        normed, residual = self._add_norm(stream, parts.input_norm, f"{parts.name} input")
        if parts.project is not None:
            normed = normed.with_tensor(parts.project(normed.tensor), f"{parts.name} projection")
        gathered = self.gather(normed)
        output = PartialSum(parts.attend(gathered.tensor, positions), f"{parts.name} attention")
        if parts.mlp_on_shards or self.full:
            return self._mlp_from_shards(parts, ScatteredStream(self._shard(output), residual))
        return self._mlp_from_all_rows(parts, output, residual)

    def leave(self, stream: ScatteredStream, norm: Norm) -> Replicated:
        """Returns the rows after the last norm, complete on all ranks: the input of logits and MTP drafts."""
        return self.gather(self._add_norm(stream, norm, "final norm")[0])

    def complete(self, stream: ScatteredStream) -> Replicated:
        """Returns the rows between two layers, output and residual added, on all ranks: auxiliary hidden states,
        or what a pipeline stage sends. The stream stays valid."""
        shard, residual = self._shard(stream.hidden), stream.residual
        if residual is not None:
            shard = add(shard, self._shard(residual), "hidden state")
        return self.gather(shard)

    def gather(self, shard: RowShard) -> Replicated:
        """Gathers the rows of all ranks and cuts off the pad rows."""
        split, x = shard.split, shard.tensor.contiguous()
        if not split.has_equal_shards:
            return Replicated(self.collectives.all_gather_variable(x, split.counts), shard.name)
        out = x.new_empty(split.num_held, *x.shape[1:])
        self.collectives.all_gather_into(out, x)
        return Replicated(out[: split.num_rows], shard.name)

    def _mlp_from_all_rows(self, parts: LayerParts, output: PartialSum, residual: RowShard) -> ScatteredStream:
        total = add_once(output, residual, f"{parts.name} attention + residual")
        self.collectives.all_reduce_(total.tensor)
        complete = Replicated(total.tensor, total.name)
        hidden = parts.mlp(parts.output_norm.apply(complete.tensor), None)
        return ScatteredStream(PartialSum(hidden, f"{parts.name} mlp"), complete)

    def _mlp_from_shards(self, parts: LayerParts, stream: ScatteredStream) -> ScatteredStream:
        normed, residual = self._add_norm(stream, parts.output_norm, f"{parts.name} attention")
        name = f"{parts.name} mlp"
        if parts.mlp_on_shards:
            output = parts.mlp(padded(normed.tensor, normed.split.longest), None)
            return ScatteredStream(normed.with_tensor(output[: normed.tensor.shape[0]], name), residual)
        logits = None
        if parts.route is not None:
            logits = self.gather(normed.with_tensor(parts.route(normed.tensor), f"{parts.name} logits")).tensor
        hidden = parts.mlp(self._gather_wire(normed).tensor, logits)
        return ScatteredStream(PartialSum(hidden, name), residual)

    def _gather_wire(self, shard: RowShard) -> Replicated:
        if not self.fp8_wire:
            return self.gather(shard)
        wire = self.gather(shard.with_tensor(fp8_wire.encode(shard.tensor), shard.name))
        return Replicated(fp8_wire.decode(wire.tensor, shard.tensor.shape[1], shard.tensor.dtype), shard.name)

    def _add_norm(self, stream: ScatteredStream, norm: Norm, name: str) -> tuple[RowShard, RowShard]:
        """Returns (normed, residual) of a shard; pad rows are zero before and after."""
        hidden = self._shard(stream.hidden)
        if stream.residual is None:
            return hidden.with_tensor(norm.apply(hidden.tensor), name), hidden
        residual = self._shard(stream.residual)
        if residual.split != hidden.split:
            add(hidden, residual, name)  # raises with both names
        normed, total = add_rms_norm(hidden.tensor, residual.tensor, norm.weight, norm.eps)
        return hidden.with_tensor(normed, name), hidden.with_tensor(total, f"{name} residual")

    def _shard(self, rows: Rows) -> RowShard:
        """Returns this rank's rows: reduce-scattered, sliced, or unchanged where the rows are a shard already."""
        if isinstance(rows, RowShard):
            return rows
        split = RowSplit.even(rows.tensor.shape[0], self.num_ranks, is_padded=not self.uneven)
        if isinstance(rows, Replicated):
            return own_rows(rows, split, self.rank)
        if not split.has_equal_shards:
            out = self.collectives.reduce_scatter_variable(rows.tensor, split.counts)
            return RowShard(out, rows.name, split, self.rank)
        x = padded(rows.tensor, split.num_held).contiguous()
        out = x.new_empty(split.held(self.rank), *x.shape[1:])
        self.collectives.reduce_scatter_into(out, x)
        return RowShard(out, rows.name, split, self.rank)
