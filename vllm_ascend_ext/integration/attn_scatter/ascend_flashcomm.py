# SPDX-License-Identifier: Apache-2.0
"""Gathers once in each layer of a model whose rows vllm-ascend's FlashComm v1 has divided among the ranks.

FlashComm v1 gives each rank its rows between the layers. Latent attention then gathers twice, behind the
projection that all ranks repeat, and sparse attention gathers the rows themselves, before it. Here both project
the rank's own rows and gather the results together; all else stays vllm-ascend's.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from vllm_ascend_ext.attn_scatter import layer_cost
from vllm_ascend_ext.attn_scatter.cost import RATES
from vllm_ascend_ext.attn_scatter.cut_cost import CutSizes, PayingSteps, paying_steps
from vllm_ascend_ext.attn_scatter.layers import AttentionScatter
from vllm_ascend_ext.attn_scatter.row_layouts import RowShard, RowSplit
from vllm_ascend_ext.config import AttnScatterConfig
from vllm_ascend_ext.integration.attn_scatter.ascend_attention import narrow_rows, unsupported
from vllm_ascend_ext.integration.attn_scatter.ascend_cut_steps import asked_steps
from vllm_ascend_ext.integration.attn_scatter.decoder import Decoder
from vllm_ascend_ext.integration.attn_scatter.model import SteppedModel, check_agreement, own_collectives
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.seams.change import Change, row_for, temporarily
from vllm_ascend_ext.integration.upstream.seams.rows import ascend_layers as seams

logger = logging.getLogger(__name__)


def gather_once(runner: Any, decoder: Decoder, config: AttnScatterConfig) -> GatheringOnce:
    """Puts one gather a layer into a runner's loaded model.

    decoder: the model, whose layers divide the rows.

    Raises:
        UnsupportedCombinationError: an attention cannot be given rows that are projected already, or that would
            never save time.
        StartupError: the ranks would do so in different steps.
    """
    collectives = own_collectives(runner)
    exchange = AttentionScatter(collectives)
    attentions = [
        CutAttention(layer.self_attn, index, exchange) for index, layer in enumerate(decoder.model.layers)
    ]
    hidden, element_bytes = decoder.model.norm.weight.shape[0], runner.model_config.dtype.itemsize
    sizes = [attention.sizes(hidden, element_bytes) for attention in attentions]
    steps = asked_steps(config) or paying_steps(sizes, collectives.num_ranks, RATES[runner.device.type])
    check_agreement(collectives, config, steps, sizes, runner.device)
    if steps is None:
        raise UnsupportedCombinationError(
            "ascend_ext.attn_scatter would save nothing beside FlashComm v1: one gather in each layer of "
            f"{type(decoder.model).__name__} is slower at any number of rows; set attn_scatter.enabled to false, "
            "or attn_scatter.min_tokens"
        )
    logger.info("ascend_ext.attn_scatter: steps of %s gather once in a layer", steps)
    return GatheringOnce(decoder, attentions, sizes, exchange, steps)


class CutAttention:
    """Takes an attention apart that is given a rank's rows.

    Attributes:
        changes: what is changed in the attention for a step that is ours.
    """

    def __init__(self, attention: Any, index: int, exchange: AttentionScatter) -> None:
        self._name, self._exchange = f"layer {index}", exchange
        if not hasattr(attention, "mla_attn"):
            raise unsupported(f"the attention of {self._name} gathers once already")
        if attention.mla_attn.is_vl_first_layer:
            raise unsupported(f"{self._name} is given whole rows")
        narrow = narrow_rows(attention, self._name)
        self._widths, self._project, own = narrow.widths, narrow.project, narrow.implementation
        attend = functools.partial(self._attend, own.forward)
        self.changes = [*narrow.changes, Change(row_for(seams.ATTENTIONS, own), attend, own)]

    def sizes(self, hidden: int, element_bytes: int) -> CutSizes:
        """Returns what the cost model needs to know. hidden: width of the model's rows."""
        query, key, *indexer = self._widths
        return CutSizes(hidden, query, key, element_bytes, sum(indexer))

    def _attend(
        self,
        forward: Callable[..., torch.Tensor],
        layer_name: Any,
        hidden_states: torch.Tensor,
        kv_cache: Any,
        attn_metadata: Any,
        need_gather_q_kv: bool = False,
        output: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Takes the place of `AscendMLAImpl.forward` and `AscendSFAImpl.forward`.

        Without metadata, as in a run that profiles, nothing is projected, and they gather nothing either.
        """
        if attn_metadata is not None:
            hidden_states = self._gathered(hidden_states)
        return forward(layer_name, hidden_states, kv_cache, attn_metadata, False, output)

    def _gathered(self, own_rows: torch.Tensor) -> torch.Tensor:
        from vllm_ascend.ascend_forward_context import _EXTRA_CTX

        num_ranks, rank = self._exchange.num_ranks, self._exchange.rank
        split = RowSplit.even(own_rows.shape[0] * num_ranks, num_ranks)
        shard = RowShard(self._project(own_rows), f"{self._name} projection", split, rank)
        return self._exchange.gather(shard).tensor[: _EXTRA_CTX.num_tokens]


class GatheringOnce(SteppedModel):
    """Runs a model's own forward, whose attentions gather once.

    Attributes:
        max_tokens: rows of the largest step that does so; None for no limit.
    """

    def __init__(
        self,
        decoder: Decoder,
        attentions: list[CutAttention],
        sizes: list[CutSizes],
        exchange: AttentionScatter,
        steps: PayingSteps,
    ) -> None:
        self._sizes = sizes
        self.max_tokens = steps.last
        changes = [change for attention in attentions for change in attention.changes]
        super().__init__(decoder, changes, exchange, steps.first)

    def report(self) -> dict[str, Any]:
        """Returns what every model reports, and the largest step that gathers once."""
        return super().report() | {"max_tokens": self.max_tokens}

    def _is_ours(self, num_rows: int) -> bool:
        return num_rows in PayingSteps(self.min_tokens, self.max_tokens)

    def _scattered(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any,
        inputs_embeds: torch.Tensor | None,
    ) -> Any:
        self._count_bytes()
        with temporarily(self._changes):
            return self._plain_forward(input_ids, positions, intermediate_tensors, inputs_embeds)

    def _count_bytes(self) -> None:
        """Adds the bytes that are predicted for a forward; one without metadata gathers nothing."""
        from vllm.forward_context import get_forward_context
        from vllm_ascend.ascend_forward_context import _EXTRA_CTX

        if get_forward_context().attn_metadata is None:
            return
        split = RowSplit.even(_EXTRA_CTX.num_tokens + _EXTRA_CTX.pad_size, self.exchange.num_ranks)
        for sizes in self._sizes:
            self.predicted_bytes += layer_cost.gather("latents", split, self.exchange.rank, sizes.row_bytes).sent
