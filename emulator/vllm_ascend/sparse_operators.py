# SPDX-License-Identifier: Apache-2.0
"""Defines the operators of torch.ops._C_ascend that sparse attention calls, by torch_npu's own.

Signatures: vllm-ascend csrc/torch_binding.cpp (Apache-2.0). torch_npu's have the same arguments, limits and, for
torch.compile, shapes.
"""

from __future__ import annotations

import torch_npu

from emulator.vllm_ascend.operators import define

_EVERY_TOKEN = 2**63 - 1

define(
    "_C_ascend",
    "npu_lightning_indexer(Tensor query, Tensor key, Tensor weights, *, Tensor? actual_seq_lengths_query=None, "
    "Tensor? actual_seq_lengths_key=None, Tensor? block_table=None, str layout_query='BSND', "
    f"str layout_key='BSND', int sparse_count=2048, int sparse_mode=3, int pre_tokens={_EVERY_TOKEN}, "
    f"int next_tokens={_EVERY_TOKEN}, bool return_value=False) -> (Tensor sparse_indices, Tensor sparse_values)",
    torch_npu.npu_lightning_indexer,
    torch_npu.npu_lightning_indexer,
)
define(
    "_C_ascend",
    "npu_sparse_flash_attention(Tensor query, Tensor key, Tensor value, Tensor sparse_indices, float scale_value, "
    "*, Tensor? block_table=None, Tensor? actual_seq_lengths_query=None, Tensor? actual_seq_lengths_kv=None, "
    "Tensor? query_rope=None, Tensor? key_rope=None, int sparse_block_size=1, str layout_query='BSND', "
    f"str layout_kv='BSND', int sparse_mode=3, int pre_tokens={_EVERY_TOKEN}, int next_tokens={_EVERY_TOKEN}, "
    "int attention_mode=2, bool return_softmax_lse=False) "
    "-> (Tensor attention_out, Tensor softmax_max, Tensor softmax_sum)",
    torch_npu.npu_sparse_flash_attention,
    torch_npu.npu_sparse_flash_attention,
)
