# SPDX-License-Identifier: Apache-2.0
"""Takes the decoder layers of a model apart that vllm-ascend 0.23.0 serves.

The layers are vLLM's classes with vllm-ascend's linear layers, norms, experts and latent attention in them. Only
the classes that the emulator has run are accepted; every other is refused by name.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from vllm_ascend_ext.integration.attn_scatter.ascend_attention import narrow_rows, unsupported
from vllm_ascend_ext.integration.attn_scatter.ascend_limits import DISPATCHES
from vllm_ascend_ext.integration.attn_scatter.decoder import Mlp, Rowwise, ScatteredLayer, own_addend, own_rows
from vllm_ascend_ext.integration.attn_scatter.layer_kind import LayerModules, layers_of
from vllm_ascend_ext.integration.upstream.ascend_dispatch import check_runner
from vllm_ascend_ext.integration.upstream.seams.change import Change, row_for
from vllm_ascend_ext.integration.upstream.seams.rows import ascend_layers as seams
from vllm_ascend_ext.integration.upstream.seams.seam import Seam


class AscendDecoder:
    """Implements `Decoder` for a model that vllm-ascend serves.

    runner: the runner, with a loaded model.

    Raises:
        UnsupportedCombinationError: experts sum over the ranks by themselves in some step.
    """

    def __init__(self, runner: Any) -> None:
        from vllm.config import CompilationMode

        check_runner(runner, "attn_scatter", "cannot leave the experts' sum to its own collective", DISPATCHES)
        self._head = runner.get_model()
        self.model = self._head.model
        self._vllm_config = runner.vllm_config
        compilation = self._vllm_config.compilation_config
        self._largest_graph = compilation.max_cudagraph_capture_size or 0
        self._is_compiled = compilation.mode in (None, CompilationMode.NONE)  # there is nothing to compile
        self._shared_sum = Change(seams.SHARED_SUM, _own_shared)

    @property
    def cuts_rows(self) -> bool:
        from vllm_ascend.utils import enable_sp

        return bool(enable_sp(self._vllm_config))

    @property
    def forward_place(self) -> tuple[Seam, Any]:
        """Returns the forward of the model with its head: below it vLLM calls what it has compiled."""
        return row_for(seams.FORWARDS, self._head), self._head

    def layers(self, *, full: bool) -> list[ScatteredLayer]:
        return [AscendLayer(layer, index, full=full) for index, layer in enumerate(layers_of(self.model))]

    def own_vocabulary(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        from vllm_ascend.ops.vocab_parallel_embedding import AscendVocabParallelEmbedding

        embedding = self.model.embed_tokens
        if type(embedding) is not AscendVocabParallelEmbedding or embedding.forward_type is not None:
            return None
        return own_rows(embedding, embedding._get_masked_input_and_mask, input_ids)

    def belongs_to_graphs(self, num_rows: int) -> bool:
        """Returns whether the step is replayed or captured, or as small as captured ones.

        vllm-ascend warms graphs up by eager steps of their sizes. Both depend on numbers that all tensor-parallel
        ranks know alike: the rows, and the mode that is dispatched by them.
        """
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import get_forward_context

        mode = get_forward_context().cudagraph_runtime_mode
        return num_rows <= self._largest_graph or mode != CUDAGraphMode.NONE

    def step_changes(self) -> list[Change]:
        """Leaves what experts return as this rank has it, where they send rows: by the way of the present step."""
        from vllm_ascend.ascend_forward_context import _EXTRA_CTX, MoECommType

        if _EXTRA_CTX.moe_comm_type in (None, MoECommType.ALLGATHER):
            return []  # an addend, whose sum `AscendLayer` leaves out
        ends = _EXTRA_CTX.moe_comm_method.prepare_finalize
        own_slice = functools.partial(_own_slice, ends, _EXTRA_CTX.num_tokens)
        return [self._shared_sum, Change(seams.FINALIZE, own_slice, ends)]

    def must_run_plain_first(self) -> bool:
        """Returns whether the model is yet to be compiled, as it is in the profile run that comes first."""
        was_compiled, self._is_compiled = self._is_compiled, True
        return not was_compiled


def _own_slice(
    ends: Any,
    num_tokens: int,
    hidden_states: torch.Tensor,
    reduce_results: bool,
    padded_hidden_states_shape: torch.Size | None = None,
) -> torch.Tensor:
    """Does what vllm-ascend's `PrepareAndFinalizeWithAll2All.finalize` does, without its all-gather.

    Where rows are sent to experts, each rank of a replica sends a slice of them and gets its results back. With
    zeros in the place of the others' rows they are an addend, to which that of shared experts can be added.

    ends: vllm-ascend's object, which has padded the batch's `num_tokens` rows and cut them in `prepare`.
    """
    assert padded_hidden_states_shape is not None
    everything = hidden_states.new_zeros(padded_hidden_states_shape)
    torch.tensor_split(everything, ends.tp_size)[ends.tp_rank].copy_(hidden_states)
    return everything[:num_tokens]


def _own_shared(input_: torch.Tensor) -> torch.Tensor:
    """Returns what shared experts give, which is an addend, where vllm-ascend would sum it by itself."""
    return input_


class AscendLayer(ScatteredLayer):
    """Takes one layer apart.

    Raises:
        UnsupportedCombinationError: a module is of a class that has not run.
    """

    def __init__(self, layer: LayerModules, index: int, *, full: bool) -> None:
        from vllm_ascend.ops.layernorm import AscendRMSNorm

        for module in (layer.input_norm, layer.output_norm):
            _expect(module, AscendRMSNorm, f"layer {index}")
            if module.bias is not None:
                raise unsupported(f"a norm of layer {index} has a bias")
        super().__init__(layer, index, full=full)

    def _leave_sum(self, linear: Any) -> None:
        from vllm_ascend.ops.linear import AscendRowParallelLinear

        self._expect_linear(linear, AscendRowParallelLinear)
        self.changes.append(Change(seams.REDUCE_RESULTS, False, linear))

    def _expect_linear(self, linear: Any, kind: type) -> None:
        _expect(linear, kind, self.name)
        if linear.custom_op is not None:
            raise unsupported(f"{linear.prefix} exchanges rows by {type(linear.custom_op).__name__}")

    def _projection(self, attention: Any) -> tuple[Rowwise | None, int]:
        from vllm_ascend.ops.linear import AscendQKVParallelLinear

        if not hasattr(attention, "mla_attn"):
            self._expect_linear(attention.qkv_proj, AscendQKVParallelLinear)
            return None, self._hidden_size
        narrow = narrow_rows(attention, self.name)
        self.changes += narrow.changes
        return narrow.project, narrow.width

    def _mlp(self, mlp: Any, full: bool) -> tuple[Mlp, bool, Rowwise | None]:
        from vllm_ascend.ops.fused_moe.fused_moe import AscendMoERunner

        experts = getattr(mlp, "experts", None)
        if experts is None:
            self._leave_sum(mlp.down_proj)
        else:
            _expect(experts.runner, AscendMoERunner, self.name)
            self.changes.append(Change(seams.REDUCE_EXPERTS, own_addend, experts.runner))
        return (lambda x, logits: mlp(x)), False, None


def _expect(module: Any, kind: type, where: str) -> None:
    if type(module) is not kind:
        raise unsupported(f"{where} has a {type(module).__name__} in place of vllm-ascend's {kind.__name__}")
