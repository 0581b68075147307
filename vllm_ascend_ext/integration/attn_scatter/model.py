# SPDX-License-Identifier: Apache-2.0
"""Runs the decoder layers of a loaded vLLM model with scattered attention input.

The model's forward is replaced on the instance. A step with few rows goes on to vLLM's own forward. A step with
more rows goes through the model's own modules, layer by layer, with typed rows. Where those modules would sum over
the ranks themselves, this is switched off for the duration of such a step (`temporarily`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter.cost import RATES, LayerSizes
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter, LayerParts
from vllm_ascend_ext.attn_scatter.row_layouts import PartialSum, Replicated
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.attn_scatter.layer_kind import LayerModules, layers_of
from vllm_ascend_ext.integration.attn_scatter.layer_parts import (
    attend,
    norm,
    own_vocabulary,
    route,
    takes_scaling,
)
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks import agreement, traffic
from vllm_ascend_ext.integration.ranks.deadline import deadline_s
from vllm_ascend_ext.integration.upstream.runner_device import device_of
from vllm_ascend_ext.integration.upstream.seams.change import Change, replace, row_for, temporarily
from vllm_ascend_ext.integration.upstream.seams.rows import attn_scatter as seams

logger = logging.getLogger(__name__)

GROUP = "attn_scatter"  # its collectives' name in the traffic report


def scatter(runner: Any, config: AttnScatterConfig) -> ScatteredModel:
    """Puts scattered attention input into a runner's loaded model.

    Raises:
        UnsupportedCombinationError: the layers cannot be taken apart, or scattering would never save time.
        StartupError: the ranks would scatter different steps, or in different ways.
    """
    from vllm.distributed import get_tp_group

    collectives = Collectives(
        get_tp_group().device_group,
        deadline_s(),
        GROUP,
        stream_ordered=device_of(runner).capabilities.device_collectives,
    )
    traffic.register(GROUP, collectives)
    model = runner.get_model().model
    layers = [ScatteredLayer(layer, index, full=config.full) for index, layer in enumerate(layers_of(model))]
    sizes = [layer.sizes(runner.model_config.dtype.itemsize) for layer in layers]
    threshold = config.min_tokens or scatter_cost.min_tokens(
        sizes,
        collectives.num_ranks,
        RATES[runner.device.type],
        full=config.full,
        fp8_wire=config.fp8_wire,
    )
    check_agreement(collectives, config, threshold, sizes, runner.device)
    if threshold is None:
        raise UnsupportedCombinationError(
            f"ascend_ext.attn_scatter would slow {type(model).__name__} down at any number of rows on a "
            f"{RATES[runner.device.type].name}; set attn_scatter.enabled to false, or attn_scatter.min_tokens"
        )
    logger.info("ascend_ext.attn_scatter: steps of %d rows and more (full: %s)", threshold, config.full)
    exchange = AttentionScatter(
        collectives, full=config.full, fp8_wire=config.fp8_wire, uneven=config.odd_rows == "uneven"
    )
    return ScatteredModel(model, layers, sizes, exchange, threshold)


def check_agreement(
    ranks: Collectives,
    config: AttnScatterConfig,
    threshold: int | None,
    sizes: list[LayerSizes],
    device: torch.device,
) -> None:
    """Raises StartupError where the ranks would scatter different steps, or in different ways.

    Args:
        ranks: ranks that must agree.
        config: this rank's settings.
        threshold: number of rows from which on this rank scatters a step; None when that would never save time.
        sizes: sizes of this rank's layers.
        device: device on which the ranks compare.
    """
    text = f"{config.model_dump_json()} {threshold} {sizes}"
    agreement.check_agreement(ranks, "attn_scatter", "attn_scatter section, threshold or model", text, device)


class ScatteredModel:
    """Replaces a model's forward by a scattered one, in steps of `min_tokens` rows and more.

    All ranks of a group see the same number of rows, so they decide alike. Data-parallel replicas may decide
    differently: what replicas exchange with each other is the same either way.
    """

    def __init__(
        self,
        model: Any,
        layers: list[ScatteredLayer],
        sizes: list[LayerSizes],
        scatter: AttentionScatter,
        min_tokens: int,
    ) -> None:
        self.min_tokens = min_tokens
        self.num_scattered = self.num_plain = self.predicted_bytes = 0
        self.layers, self.exchange = layers, scatter
        self._model, self._sizes = model, sizes
        self._bytes: dict[tuple[int, bool, bool], int] = {}
        self._changes = [change for layer in layers for change in layer.changes]
        self._norm = norm(model.norm)
        self._plain_forward = model.forward
        self._row = row_for(seams.FORWARDS, model)
        self.put_forward(self.forward)

    def put_forward(self, forward: Callable[..., Any]) -> None:
        """Puts a function in the place of the model's forward."""
        replace(self._row, forward, self._model)

    def report(self) -> dict[str, Any]:
        """Returns the forward passes so far, and the bytes that the cost model predicts for scattered ones."""
        return {
            "min_tokens": self.min_tokens,
            "full": self.exchange.full,
            "odd_rows": "uneven" if self.exchange.uneven else "pad",
            "num_scattered": self.num_scattered,
            "num_plain": self.num_plain,
            "predicted_bytes": self.predicted_bytes,
        }

    def reset(self) -> None:
        """Forgets the counts."""
        self.num_scattered = self.num_plain = self.predicted_bytes = 0

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> Any:
        """Takes the place of the model's own forward, with the same arguments and results."""
        rows = inputs_embeds if inputs_embeds is not None else input_ids
        if rows is None or rows.shape[0] < self.min_tokens:
            self.num_plain += 1
            return self._plain_forward(input_ids, positions, intermediate_tensors, inputs_embeds)
        self.num_scattered += 1
        hidden = self._embed(input_ids, inputs_embeds)
        self._count_bytes(rows.shape[0], isinstance(hidden, PartialSum))
        with temporarily(self._changes):
            stream = self.exchange.enter(hidden)
            for layer in self.layers:
                stream = self.exchange.layer(layer.parts, stream, positions)
            return self.exchange.leave(stream, self._norm).tensor

    def _count_bytes(self, num_rows: int, entry_owes_sum: bool) -> None:
        """Adds the bytes that are predicted for a forward, which few numbers of rows ask for again and again."""
        key = num_rows, entry_owes_sum, self.exchange.uneven
        if key not in self._bytes:
            self._bytes[key] = scatter_cost.scattered_forward(
                self._sizes,
                num_rows,
                self.exchange.num_ranks,
                entry_owes_sum=entry_owes_sum,
                full=self.exchange.full,
                fp8_wire=self.exchange.fp8_wire,
                uneven=self.exchange.uneven,
                rank=self.exchange.rank,
            )
        self.predicted_bytes += self._bytes[key]

    def _embed(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> PartialSum | Replicated:
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        embedding = self._model.embed_tokens
        if inputs_embeds is not None:
            return Replicated(inputs_embeds, "input embeddings")
        if type(embedding) is VocabParallelEmbedding:
            return PartialSum(own_vocabulary(embedding, input_ids), "embedding")
        return Replicated(self._model.embed_input_ids(input_ids), "embedding")


class ScatteredLayer:
    """Takes a decoder layer apart, and lists the changes that keep its modules from summing over the ranks."""

    def __init__(self, layer: LayerModules, index: int, *, full: bool) -> None:
        self.name = f"layer {index}"
        self.changes: list[Change] = []
        self._hidden_size = layer.input_norm.weight.shape[0]
        attention = layer.attention
        self.changes.append(Change(seams.REDUCE_RESULTS, False, attention.o_proj))
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

    def _projection(self, attention: Any) -> tuple[Callable[[torch.Tensor], torch.Tensor] | None, int]:
        """Returns the projection that runs on the shard, if there is one, and the width of what is gathered."""
        fused = getattr(attention, "fused_qkv_a_proj", None)
        if fused is None:
            return None, self._hidden_size
        # the attention then gets rows that are projected already
        self.changes.append(Change(seams.PROJECTION, _AlreadyProjected(), attention.mla_attn))
        return lambda x: fused(x)[0], fused.weight.shape[0]

    def _mlp(self, mlp: Any, full: bool) -> tuple[Any, bool, Any]:
        """Returns the feed-forward part, whether it runs on shards, and the router if that runs apart from it."""
        experts = getattr(mlp, "experts", None)
        if experts is None:
            self.changes.append(Change(seams.REDUCE_RESULTS, False, mlp.down_proj))
            return (lambda x, logits: mlp(x)), False, None
        runner = experts.runner
        if runner._fused_output_is_reduced:
            raise UnsupportedCombinationError(
                f"ascend_ext.attn_scatter: the experts of {self.name} sum over the ranks within their kernel; set "
                "attn_scatter.enabled to false"
            )
        if getattr(mlp, "is_sequence_parallel", False):
            if experts.is_internal_router:
                return (lambda x, logits: experts(hidden_states=x, router_logits=x)), True, None
            return (lambda x, logits: experts(hidden_states=x, router_logits=mlp.gate(x)[0])), True, None
        self.changes.append(Change(seams.REDUCE_EXPERTS, _own_addend, runner))
        if not full:
            return (lambda x, logits: mlp(x)), False, None
        if experts.is_internal_router:
            self.changes.append(Change(seams.GATE, None, runner))  # it then takes the logits that it is given
        return (
            (lambda x, logits: experts(hidden_states=x, router_logits=logits)),
            False,
            functools.partial(route, mlp.gate),
        )


class _AlreadyProjected(nn.Module):
    """Hands its input on, in place of a linear layer of vLLM whose work has been done before."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x, None


def _own_addend(states: torch.Tensor, trunc_size: int) -> torch.Tensor:
    """Does what vLLM's `MoERunner._maybe_reduce_final_output` does, without the all-reduce."""
    return states[..., :trunc_size]
