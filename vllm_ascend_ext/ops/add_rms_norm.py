# SPDX-License-Identifier: Apache-2.0
"""Defines `add_rms_norm`: residual addition and RMS norm of a row shard.

Shapes: T = rows, H = row width.
"""

from __future__ import annotations

import torch

from vllm_ascend_ext.ops._library import define_op

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def check(x_TH: torch.Tensor, residual_TH: torch.Tensor, weight_H: torch.Tensor) -> None:
    """Raises what the public function says it raises."""
    if x_TH.dim() != 2 or residual_TH.shape != x_TH.shape or weight_H.shape != x_TH.shape[1:]:
        raise ValueError(
            "add_rms_norm takes x [T, H], residual [T, H] and weight [H], not shapes "
            f"{list(x_TH.shape)}, {list(residual_TH.shape)} and {list(weight_H.shape)}"
        )
    if x_TH.shape[1] == 0:
        raise ValueError("add_rms_norm: rows of no elements have no norm")
    if x_TH.dtype not in _FLOATS or not x_TH.dtype == residual_TH.dtype == weight_H.dtype:
        raise TypeError(
            "add_rms_norm takes x, residual and weight all float16, bfloat16 or float32, not "
            f"{x_TH.dtype}, {residual_TH.dtype} and {weight_H.dtype}"
        )
    if not x_TH.device == residual_TH.device == weight_H.device:
        raise ValueError(
            "add_rms_norm takes tensors of one device, not "
            f"{x_TH.device}, {residual_TH.device} and {weight_H.device}"
        )


def _reference(
    x_TH: torch.Tensor, residual_TH: torch.Tensor, weight_H: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    check(x_TH, residual_TH, weight_H)
    sum_TH = x_TH.float() + residual_TH.float()
    rms_T1 = sum_TH.square().mean(dim=1, keepdim=True).add(eps).sqrt()
    y_TH = (sum_TH / rms_T1 * weight_H.float()).to(x_TH.dtype)
    return y_TH, sum_TH.to(x_TH.dtype)


def _fake(
    x_TH: torch.Tensor, residual_TH: torch.Tensor, weight_H: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    check(x_TH, residual_TH, weight_H)
    shape = x_TH.shape
    return x_TH.new_empty(shape), x_TH.new_empty(shape)


_OP = define_op(
    "add_rms_norm(Tensor x_TH, Tensor residual_TH, Tensor weight_H, float eps) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
)


def add_rms_norm(
    x_TH: torch.Tensor, residual_TH: torch.Tensor, weight_H: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes ``residual_out = x + residual`` and ``y = residual_out / sqrt(mean(residual_out²) + eps) *
    weight``.

    Computed in float32; each result is rounded to the dtype once, so `y` is normed from the unrounded sum.

    Args:
        x_TH, residual_TH: ``[T, H]`` float16, bfloat16 or float32; T may be 0. Each row is normed by itself, so a
            shard of a batch's rows gives what the whole batch would.
        weight_H: ``[H]``, same dtype and device.
        eps: added to the mean of squares.

    Returns:
        ``(y, residual_out)``, both ``[T, H]`` of the same dtype, new and contiguous.

    Raises:
        ValueError: other shapes, H = 0, or tensors of different devices.
        TypeError: other or mixed dtypes.

    Source: vLLM 0.23.0 ``RMSNorm`` with a residual.
    """
    y_TH, residual_out_TH = _OP(x_TH, residual_TH, weight_H, eps)
    return y_TH, residual_out_TH
