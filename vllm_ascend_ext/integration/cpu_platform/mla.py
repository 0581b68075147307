# SPDX-License-Identifier: Apache-2.0
"""Implements multi-head latent attention for the CPU in plain torch.

vLLM 0.23.0 refuses MLA on the CPU. This backend sends every token - prefill, chunked prefill, a prefix taken
from the cache, decode and the 1+k tokens of an MTP verification - through the absorbed form: the queries are
already in the latent space, and keys and values are the cached latents, so that one masked softmax over the
pages of a request covers all of them. Attention is computed per request, which keeps a request's result
independent of who else is in the batch.

T = tokens, N = heads, L = kv_lora_rank, R = qk_rope_head_dim, S = sequence length
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.model_executor.layers.attention.mla_attention import (
    MLACommonBackend,
    MLACommonDecodeMetadata,
    MLACommonImpl,
    MLACommonMetadata,
)
from vllm.v1.attention.backend import AttentionMetadataBuilder
from vllm.v1.attention.backends.mla.prefill.base import MLAPrefillBackend

if TYPE_CHECKING:
    from vllm.v1.attention.backend import CommonAttentionMetadata

# most rows of one score matrix, which bounds the memory of a long prefill to 512 * N * S floats
_MAX_QUERY_ROWS = 512


class TorchMLABackend(MLACommonBackend):
    """Describes the backend: any block size, any latent width, float16, bfloat16 and float32."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]

    @staticmethod
    def get_name() -> str:
        return "ASCEND_EXT_CPU_MLA"

    @staticmethod
    def get_builder_cls() -> type[TorchMLAMetadataBuilder]:
        return TorchMLAMetadataBuilder

    @staticmethod
    def get_impl_cls() -> type[TorchMLAImpl]:
        return TorchMLAImpl

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return []

    @classmethod
    def supports_block_size(cls, block_size: int | None) -> bool:
        return True


class TorchMLAMetadata(MLACommonMetadata[MLACommonDecodeMetadata]):
    """Holds vLLM's MLA metadata with every request in the decode section; query lengths may differ."""


class TorchMLAMetadataBuilder(AttentionMetadataBuilder[TorchMLAMetadata]):
    """Builds `TorchMLAMetadata`. Lengths come from the device tensors, which asynchronous scheduling corrects
    after rejected drafts; the host copies are only upper bounds then."""

    # every request takes the same path, so the batch need not be reordered
    reorder_batch_threshold: int | None = None

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.head_dim = vllm_config.model_config.get_head_size()

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> TorchMLAMetadata:
        common = common_attn_metadata
        return TorchMLAMetadata(
            num_reqs=common.num_reqs,
            max_query_len=common.max_query_len,
            max_seq_len=common.max_seq_len,
            num_actual_tokens=common.num_actual_tokens,
            query_start_loc=common.query_start_loc,
            slot_mapping=common.slot_mapping,
            num_decodes=common.num_reqs,
            num_decode_tokens=common.num_actual_tokens,
            num_prefills=0,
            decode=MLACommonDecodeMetadata(
                block_table=common.block_table_tensor, seq_lens=common.seq_lens, dcp_tot_seq_lens=None
            ),
        )


class TorchMLAImpl(MLACommonImpl[TorchMLAMetadata]):
    """Computes absorbed attention over the paged latents."""

    can_return_lse_for_decode: bool = False

    def do_kv_cache_update(
        self,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
        kv_cache_dtype: str,
        k_scale: torch.Tensor,
    ) -> None:
        """Writes [T, L] latents and [T, 1, R] rope keys into the slots of `kv_cache` [blocks, block size, L+R]; a
        negative slot is padding."""
        if kv_cache.numel() == 0:
            return
        slots = slot_mapping.flatten().long()
        rows = torch.cat([kv_c_normed, k_pe.squeeze(1)], dim=-1)[: slots.shape[0]].to(kv_cache.dtype)
        real = slots >= 0
        kv_cache.view(-1, kv_cache.shape[-1]).index_copy_(0, slots[real], rows[real])

    def forward_mqa(
        self,
        q: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: TorchMLAMetadata,
        layer: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attends with [T, N, L+R] queries over the cache; returns [T, N, L] in the query's dtype."""
        q_TNC = torch.cat(q, dim=-1) if isinstance(q, tuple) else q
        out_TNL = q_TNC.new_zeros(q_TNC.shape[0], q_TNC.shape[1], self.kv_lora_rank)
        decode = attn_metadata.decode
        assert decode is not None
        starts = attn_metadata.query_start_loc.tolist()
        lengths = decode.seq_lens.tolist()
        block_size = kv_c_and_k_pe_cache.shape[1]
        for request in range(attn_metadata.num_reqs):
            begin, end, seq_len = starts[request], starts[request + 1], lengths[request]
            if end <= begin or seq_len == 0:
                continue
            pages = decode.block_table[request, : -(-seq_len // block_size)].long()
            kv_SC = kv_c_and_k_pe_cache[pages].flatten(0, 1)[:seq_len].float()
            for first in range(begin, end, _MAX_QUERY_ROWS):
                last = min(first + _MAX_QUERY_ROWS, end)
                position = seq_len - end + first
                out_TNL[first:last] = self._attend(q_TNC[first:last], kv_SC, position).to(out_TNL.dtype)
        return out_TNL, None

    def _attend(self, q_TNC: torch.Tensor, kv_SC: torch.Tensor, position: int) -> torch.Tensor:
        """Computes causal softmax of [T, N, C] queries, the first of them at `position`, over [S, C] latents in
        float32."""
        num_rows, num_heads, _ = q_TNC.shape
        scores_XS = q_TNC.float().flatten(0, 1) @ kv_SC.T * self.scale
        if position + 1 < kv_SC.shape[0]:
            last_key_T1 = torch.arange(position, position + num_rows).unsqueeze(1)
            hidden_TS = torch.arange(kv_SC.shape[0]) > last_key_T1
            scores_XS.view(num_rows, num_heads, -1).masked_fill_(hidden_TS.unsqueeze(1), float("-inf"))
        return (scores_XS.softmax(-1) @ kv_SC[:, : self.kv_lora_rank]).view(num_rows, num_heads, -1)


class UnusedPrefillBackend(MLAPrefillBackend):
    """Fills the place of the prefill backend that `MLAAttention` is given: our metadata never contains a prefill
    section."""

    supported_dtypes: ClassVar[list[torch.dtype]] = TorchMLABackend.supported_dtypes

    @staticmethod
    def get_name() -> str:
        return "ASCEND_EXT_CPU_MLA_PREFILL"

    def run_prefill_new_tokens(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("prefill tokens take forward_mqa on the CPU platform")

    def run_prefill_context_chunk(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("prefill tokens take forward_mqa on the CPU platform")


def get_mla_prefill_backend(vllm_config: Any) -> type[MLAPrefillBackend]:
    """Replaces vLLM's selector, which looks for FlashAttention."""
    return UnusedPrefillBackend
