# SPDX-License-Identifier: Apache-2.0
"""Triton kernels for CUDA, one file an operator. Triton itself is imported by the first call on a GPU."""

from __future__ import annotations

import importlib.util

import torch

from vllm_ascend_ext.ops._library import explain_missing, register_kernels


def register() -> None:
    """Makes the kernels serve CUDA tensors, where triton is installed."""
    if importlib.util.find_spec("triton") is None:
        explain_missing("cuda", "triton is not installed")
        return
    register_kernels(
        "cuda",
        {
            "expert_load_add_": _expert_load_add_,
            "expert_load_add_counts_": _expert_load_add_counts_,
            "dp_pad": _dp_pad,
            "dp_unpad": _dp_unpad,
            "add_rms_norm": _add_rms_norm,
            "mtp_pack_output": _mtp_pack_output,
        },
    )


def _expert_load_add_(load_E: torch.Tensor, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor) -> None:
    from vllm_ascend_ext.ops.triton.expert_load import expert_load_add_

    expert_load_add_(load_E, topk_ids_TK, num_tokens)


def _expert_load_add_counts_(load_E: torch.Tensor, counts_E: torch.Tensor, is_cumsum: bool) -> None:
    from vllm_ascend_ext.ops.triton.expert_load_counts import expert_load_add_counts_

    expert_load_add_counts_(load_E, counts_E, is_cumsum)


def _dp_pad(local_TH: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
    from vllm_ascend_ext.ops.triton.dp_rows import dp_pad

    return dp_pad(local_TH, rows, offset, total)


def _dp_unpad(global_NH: torch.Tensor, rows: int, offset: int) -> torch.Tensor:
    from vllm_ascend_ext.ops.triton.dp_rows import dp_unpad

    return dp_unpad(global_NH, rows, offset)


def _add_rms_norm(
    x_TH: torch.Tensor, residual_TH: torch.Tensor, weight_H: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    from vllm_ascend_ext.ops.triton.add_rms_norm import add_rms_norm

    return add_rms_norm(x_TH, residual_TH, weight_H, eps)


def _mtp_pack_output(
    token_ids_BS: torch.Tensor,
    num_accepted_B: torch.Tensor,
    status_B: torch.Tensor,
    topk_ids_BSK: torch.Tensor | None = None,
    topk_logprobs_BSK: torch.Tensor | None = None,
    token_ranks_BS: torch.Tensor | None = None,
) -> torch.Tensor:
    from vllm_ascend_ext.ops.triton.mtp_pack import mtp_pack_output

    return mtp_pack_output(token_ids_BS, num_accepted_B, status_B, topk_ids_BSK, topk_logprobs_BSK, token_ranks_BS)
