# SPDX-License-Identifier: Apache-2.0
"""Takes the decoder layers of vLLM's own models apart."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from vllm_ascend_ext.integration.attn_scatter.decoder import Mlp, Rowwise, ScatteredLayer, own_addend, own_rows
from vllm_ascend_ext.integration.attn_scatter.layer_kind import layers_of
from vllm_ascend_ext.integration.attn_scatter.layer_parts import route
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.seams.change import Change, row_for
from vllm_ascend_ext.integration.upstream.seams.rows import attn_scatter as seams
from vllm_ascend_ext.integration.upstream.seams.seam import Seam


class VllmDecoder:
    """Implements `Decoder` for vLLM's own layers.

    runner: the runner, with a loaded model.
    """

    def __init__(self, runner: Any) -> None:
        self.model = runner.get_model().model

    @property
    def cuts_rows(self) -> bool:
        return False  # only the experts', which `VllmLayer` knows

    @property
    def forward_place(self) -> tuple[Seam, Any]:
        return row_for(seams.FORWARDS, self.model), self.model

    def layers(self, *, full: bool) -> list[ScatteredLayer]:
        return [VllmLayer(layer, index, full=full) for index, layer in enumerate(layers_of(self.model))]

    def own_vocabulary(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            VocabParallelEmbedding,
            get_masked_input_and_mask,
        )

        embedding = self.model.embed_tokens
        if type(embedding) is not VocabParallelEmbedding:
            return None
        return own_rows(embedding, get_masked_input_and_mask, input_ids)

    def belongs_to_graphs(self, num_rows: int) -> bool:
        return False  # graphs are refused

    def step_changes(self) -> list[Change]:
        return []  # what experts call belongs to their layer

    def must_run_plain_first(self) -> bool:
        return False


class VllmLayer(ScatteredLayer):
    """Takes one layer apart."""

    def _leave_sum(self, linear: Any) -> None:
        self.changes.append(Change(seams.REDUCE_RESULTS, False, linear))

    def _projection(self, attention: Any) -> tuple[Rowwise | None, int]:
        fused = getattr(attention, "fused_qkv_a_proj", None)
        if fused is None:
            return None, self._hidden_size
        # the attention then gets rows that are projected already
        self.changes.append(Change(seams.PROJECTION, _AlreadyProjected(), attention.mla_attn))
        return lambda x: fused(x)[0], fused.weight.shape[0]

    def _mlp(self, mlp: Any, full: bool) -> tuple[Mlp, bool, Rowwise | None]:
        experts = getattr(mlp, "experts", None)
        if experts is None:
            self._leave_sum(mlp.down_proj)
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
        self.changes.append(Change(seams.REDUCE_EXPERTS, own_addend, runner))
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
