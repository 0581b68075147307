# SPDX-License-Identifier: Apache-2.0
"""Runs the decoder layers of a loaded vLLM model with scattered attention input.

The model's forward is replaced on the instance. A step with few rows goes on to vLLM's own forward. A step with
more rows goes through the model's own modules, layer by layer, with typed rows. Where those modules would sum over
the ranks themselves, this is switched off for the duration of such a step (`temporarily`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter.cost import RATES
from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter
from vllm_ascend_ext.attn_scatter.row_layouts import PartialSum, Replicated
from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.attn_scatter.decoder import Decoder, ScatteredLayer
from vllm_ascend_ext.integration.attn_scatter.layer_parts import norm
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks import agreement, traffic
from vllm_ascend_ext.integration.ranks.deadline import deadline_s
from vllm_ascend_ext.integration.upstream.runner_device import device_of
from vllm_ascend_ext.integration.upstream.seams.change import Change, replace, temporarily

logger = logging.getLogger(__name__)

GROUP = "attn_scatter"  # its collectives' name in the traffic report


def scatter(runner: Any, decoder: Decoder, config: AttnScatterConfig) -> ScatteredModel:
    """Puts scattered attention input into a runner's loaded model.

    decoder: the model, as its stack takes it apart.

    Raises:
        UnsupportedCombinationError: the layers cannot be taken apart, or scattering would never save time.
        StartupError: the ranks would scatter different steps, or in different ways.
    """
    collectives = own_collectives(runner)
    layers = decoder.layers(full=config.full)
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
            f"ascend_ext.attn_scatter would slow {type(decoder.model).__name__} down at any number of rows on a "
            f"{RATES[runner.device.type].name}; set attn_scatter.enabled to false, or attn_scatter.min_tokens"
        )
    logger.info("ascend_ext.attn_scatter: steps of %d rows and more (full: %s)", threshold, config.full)
    exchange = AttentionScatter(
        collectives, full=config.full, fp8_wire=config.fp8_wire, uneven=config.odd_rows == "uneven"
    )
    return ScatteredModel(decoder, layers, sizes, exchange, threshold)


def own_collectives(runner: Any) -> Collectives:
    """Returns our collectives of the tensor-parallel group, whose bytes the traffic report has from now on."""
    from vllm.distributed import get_tp_group

    device = device_of(runner)
    group, is_ordered = get_tp_group().device_group, device.capabilities.device_collectives
    collectives = Collectives(group, deadline_s(), GROUP, stream_ordered=is_ordered)
    traffic.register(GROUP, collectives)
    return collectives


def check_agreement(
    ranks: Collectives,
    config: AttnScatterConfig,
    steps: object,
    sizes: Sequence[object],
    device: torch.device,
) -> None:
    """Raises StartupError where the ranks would scatter different steps, or in different ways.

    Args:
        ranks: ranks that must agree.
        config: this rank's settings.
        steps: which steps this rank scatters, by their numbers of rows; None when that would never save time.
        sizes: sizes of this rank's layers.
        device: device on which the ranks compare.
    """
    text = f"{config.model_dump_json()} {steps} {sizes}"
    agreement.check_agreement(ranks, "attn_scatter", "attn_scatter section, threshold or model", text, device)


class SteppedModel(ABC):
    """Replaces a model's forward by another one, in steps of `min_tokens` rows and more.

    All ranks of a group see the same number of rows, so they decide alike. Data-parallel replicas may decide
    differently: what replicas exchange with each other is the same either way.
    """

    def __init__(
        self, decoder: Decoder, changes: list[Change], scatter: AttentionScatter, min_tokens: int
    ) -> None:
        self.min_tokens = min_tokens
        self.num_scattered = self.num_plain = self.predicted_bytes = 0
        self.exchange = scatter
        self._decoder, self._changes = decoder, changes
        self._row, self._owner = decoder.forward_place
        self._plain_forward = self._owner.forward
        self.put_forward(self.forward)

    def put_forward(self, forward: Callable[..., Any]) -> None:
        """Puts a function in the place of the model's forward."""
        replace(self._row, forward, self._owner)

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
        if rows is None or not self._is_ours(rows.shape[0]) or self._decoder.belongs_to_graphs(rows.shape[0]):
            self.num_plain += 1
            return self._plain_forward(input_ids, positions, intermediate_tensors, inputs_embeds)
        self.num_scattered += 1
        return self._scattered(input_ids, positions, intermediate_tensors, inputs_embeds)

    def _is_ours(self, num_rows: int) -> bool:
        """Returns whether a step of so many rows saves time, graphs apart."""
        return num_rows >= self.min_tokens

    @abstractmethod
    def _scattered(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any,
        inputs_embeds: torch.Tensor | None,
    ) -> Any:
        """Runs a step with enough rows."""


class ScatteredModel(SteppedModel):
    """Runs a model's layers one by one, on rows that are scattered among the ranks."""

    def __init__(
        self,
        decoder: Decoder,
        layers: list[ScatteredLayer],
        sizes: list[LayerSizes],
        scatter: AttentionScatter,
        min_tokens: int,
    ) -> None:
        self.layers = layers
        self._sizes = sizes
        self._bytes: dict[tuple[int, bool, bool], int] = {}
        self._norm = norm(decoder.model.norm)
        super().__init__(decoder, [change for layer in layers for change in layer.changes], scatter, min_tokens)

    def _scattered(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any,
        inputs_embeds: torch.Tensor | None,
    ) -> Any:
        if self._decoder.must_run_plain_first():  # a run that profiles; the memory of both counts
            self._plain_forward(input_ids, positions, intermediate_tensors, inputs_embeds)
        hidden = self._embed(input_ids, inputs_embeds)
        self._count_bytes(hidden.tensor.shape[0], isinstance(hidden, PartialSum))
        with temporarily([*self._changes, *self._decoder.step_changes()]):
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
        if inputs_embeds is not None:
            return Replicated(inputs_embeds, "input embeddings")
        assert input_ids is not None
        addend = self._decoder.own_vocabulary(input_ids)
        if addend is not None:
            return PartialSum(addend, "embedding")
        return Replicated(self._decoder.model.embed_input_ids(input_ids), "embedding")
