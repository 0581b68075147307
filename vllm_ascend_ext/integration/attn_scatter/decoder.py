# SPDX-License-Identifier: Apache-2.0
"""Describes what scattered attention input needs of a stack's loaded model: its decoder layers, taken apart."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch

from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes
from vllm_ascend_ext.attn_scatter.layers import LayerParts
from vllm_ascend_ext.integration.attn_scatter.layer_kind import LayerModules
from vllm_ascend_ext.integration.attn_scatter.layer_parts import attend, norm, takes_scaling
from vllm_ascend_ext.integration.upstream.seams.change import Change
from vllm_ascend_ext.integration.upstream.seams.seam import Seam

Mlp = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
Rowwise = Callable[[torch.Tensor], torch.Tensor]


class Decoder(Protocol):
    """Knows one loaded model of a stack."""

    @property
    def model(self) -> Any:
        """Returns the model below the head: embedding, layers, last norm."""
        ...

    @property
    def cuts_rows(self) -> bool:
        """Returns whether the model's own layers divide the rows among the ranks already."""
        ...

    @property
    def forward_place(self) -> tuple[Seam, Any]:
        """Returns the forward that ours replaces, and the object that has it; both take and return the same."""
        ...

    def layers(self, *, full: bool) -> list[ScatteredLayer]:
        """Returns the decoder layers, taken apart.

        Raises UnsupportedCombinationError when a layer is not of a kind that is known.
        """
        ...

    def own_vocabulary(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Returns the embeddings of the ids in this rank's part of the vocabulary, zero rows for all others, which
        summed over the ranks are the embeddings; None where the embedding is not divided so."""
        ...

    def belongs_to_graphs(self, num_rows: int) -> bool:
        """Returns whether the present step is left to captured graphs, alike on all ranks of a group."""
        ...

    def step_changes(self) -> list[Change]:
        """Returns what is changed for a scattered step beside the layers: what all of them call in this step."""
        ...

    def must_run_plain_first(self) -> bool:
        """Returns whether the model's own forward has to run in this step, beside ours: once, to be compiled."""
        ...


class ScatteredLayer(ABC):
    """Takes a decoder layer apart, and lists the changes that keep its modules from summing over the ranks.

    Attributes:
        name: the layer's name, for errors.
        changes: what is changed in the layer's modules for the duration of a scattered step.
        parts: the layer, for `AttentionScatter.layer`.
    """

    def __init__(self, layer: LayerModules, index: int, *, full: bool) -> None:
        self.name = f"layer {index}"
        self.changes: list[Change] = []
        self._hidden_size = layer.input_norm.weight.shape[0]
        attention = layer.attention
        self._leave_sum(attention.o_proj)
        project, self._gathered = self._projection(attention)
        mlp, on_shards, router = self._mlp(layer.mlp, full)
        self.parts = LayerParts(
            self.name,
            norm(layer.input_norm),
            project,
            functools.partial(attend, attention, takes_scaling(attention)),
            norm(layer.output_norm),
            mlp,
            mlp_on_shards=on_shards,
            route=router,
        )
        self._logits_bytes = 0
        if router is not None:
            gate = layer.mlp.gate
            dtype = getattr(gate, "out_dtype", None) or gate.weight.dtype
            self._logits_bytes = gate.weight.shape[0] * dtype.itemsize

    def sizes(self, element_bytes: int) -> LayerSizes:
        """Returns what the cost model needs to know, for a model whose elements have `element_bytes` bytes."""
        return LayerSizes(
            self._hidden_size,
            self._gathered,
            element_bytes,
            logits_bytes=self._logits_bytes,
            mlp_on_shards=self.parts.mlp_on_shards,
        )

    @abstractmethod
    def _leave_sum(self, linear: Any) -> None:
        """Keeps a row-parallel linear layer from summing over the ranks, in scattered steps."""

    @abstractmethod
    def _projection(self, attention: Any) -> tuple[Rowwise | None, int]:
        """Returns the projection that runs on the shard, if there is one, and the width of what is gathered."""

    @abstractmethod
    def _mlp(self, mlp: Any, full: bool) -> tuple[Mlp, bool, Rowwise | None]:
        """Returns the feed-forward part, whether it runs on shards, and the router if that runs apart from it."""


def own_rows(embedding: Any, divide: Callable[..., Any], input_ids: torch.Tensor) -> torch.Tensor:
    """Does what vLLM's `VocabParallelEmbedding.forward` does up to its all-reduce, and vllm-ascend's likewise.

    divide: the stack's function that gives the ids within this rank's part, and which are elsewhere.
    """
    shard = embedding.shard_indices
    ids, elsewhere = divide(
        input_ids,
        shard.org_vocab_start_index,
        shard.org_vocab_end_index,
        shard.num_org_vocab_padding,
        shard.added_vocab_start_index,
        shard.added_vocab_end_index,
    )
    rows: torch.Tensor = embedding.quant_method.embedding(embedding, ids.long())
    return rows.masked_fill_(elsewhere.unsqueeze(-1), 0)


def own_addend(states: torch.Tensor, trunc_size: int) -> torch.Tensor:
    """Does what vLLM's `MoERunner._maybe_reduce_final_output` does, without the all-reduce."""
    return states[..., :trunc_size]
