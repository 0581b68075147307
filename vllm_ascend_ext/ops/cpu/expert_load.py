# SPDX-License-Identifier: Apache-2.0
"""Counts with numpy: a dozen calls into torch take longer than counting does, and a scatter longer than bins."""

from __future__ import annotations

import numpy as np
import torch

from vllm_ascend_ext.ops.expert_load import check

_FEW_IDS = 128  # for which numpy's loops take longer to fetch into a cache than to run
_UNSIGNED = {torch.int32: np.uint32, torch.int64: np.uint64}


def expert_load_add_(load_E: torch.Tensor, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor) -> None:
    """Does what `vllm_ascend_ext.ops.expert_load_add_` says."""
    check(load_E, topk_ids_TK, num_tokens)
    num_experts, num_rows = load_E.shape[0], int(num_tokens)
    ids = topk_ids_TK.numpy()
    if num_rows < len(ids):
        ids = ids[: max(num_rows, 0)]
    if num_experts == 0 or ids.size == 0:
        return
    load, ids = load_E.numpy(), ids.ravel()
    if ids.size <= _FEW_IDS:
        counters = load.data
        for expert in ids.tolist():
            if 0 <= expert < num_experts:
                counters[expert] += 1
        return
    unsigned = ids.view(_UNSIGNED[topk_ids_TK.dtype])  # a negative id is a very large one
    if np.maximum.reduce(unsigned) >= num_experts:
        ids = ids[unsigned < num_experts]
    load += np.bincount(ids, minlength=num_experts).astype(load.dtype, copy=False)
