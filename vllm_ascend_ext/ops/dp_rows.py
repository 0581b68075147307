# SPDX-License-Identifier: Apache-2.0
"""Defines `dp_pad` and `dp_unpad`: a rank's rows into the buffer that a group exchanges, and out of it.

Shapes: T = rows at hand, N = rows of the whole buffer, H = row width.
"""

from __future__ import annotations

import torch

from vllm_ascend_ext.ops._library import define_op

_ELEMENT_BYTES = (1, 2, 4)


def _check(name: str, rows_TH: torch.Tensor, rows: int, offset: int) -> None:
    if rows_TH.dim() != 2:
        raise ValueError(f"{name} takes a tensor [T, H], not shape {list(rows_TH.shape)}")
    if rows_TH.element_size() not in _ELEMENT_BYTES:
        raise TypeError(f"{name} takes a dtype of 1, 2 or 4 bytes, not {rows_TH.dtype}")
    if rows < 0 or offset < 0:
        raise ValueError(f"{name}: rows {rows} and offset {offset} must not be negative")


def check_pad(local_TH: torch.Tensor, rows: int, offset: int, total: int) -> None:
    """Raises what the public function says it raises."""
    _check("dp_pad", local_TH, rows, offset)
    if rows > local_TH.shape[0] or offset + rows > total:
        raise ValueError(
            f"dp_pad: {rows} rows of {local_TH.shape[0]} do not fit at {offset} of a buffer of {total} rows"
        )


def check_unpad(global_NH: torch.Tensor, rows: int, offset: int) -> None:
    """Raises what the public function says it raises."""
    _check("dp_unpad", global_NH, rows, offset)
    if offset + rows > global_NH.shape[0]:
        raise ValueError(f"dp_unpad: no {rows} rows at {offset} in a buffer of {global_NH.shape[0]} rows")


def _pad_reference(local_TH: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
    check_pad(local_TH, rows, offset, total)
    out_NH = local_TH.new_empty(total, local_TH.shape[1])
    out_NH.narrow(0, 0, offset).zero_()
    out_NH.narrow(0, offset, rows).copy_(local_TH.narrow(0, 0, rows))
    out_NH.narrow(0, offset + rows, total - offset - rows).zero_()
    return out_NH


def _pad_fake(local_TH: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
    check_pad(local_TH, rows, offset, total)
    return local_TH.new_empty(total, local_TH.shape[1])


def _unpad_reference(global_NH: torch.Tensor, rows: int, offset: int) -> torch.Tensor:
    check_unpad(global_NH, rows, offset)
    return global_NH.narrow(0, offset, rows).clone(memory_format=torch.contiguous_format)


def _unpad_fake(global_NH: torch.Tensor, rows: int, offset: int) -> torch.Tensor:
    check_unpad(global_NH, rows, offset)
    return global_NH.new_empty(rows, global_NH.shape[1])


_PAD = define_op(
    "dp_pad(Tensor local_TH, SymInt rows, SymInt offset, SymInt total) -> Tensor",
    reference=_pad_reference,
    fake=_pad_fake,
)
_UNPAD = define_op(
    "dp_unpad(Tensor global_NH, SymInt rows, SymInt offset) -> Tensor",
    reference=_unpad_reference,
    fake=_unpad_fake,
)


def dp_pad(local_TH: torch.Tensor, rows: int, offset: int, total: int) -> torch.Tensor:
    """Copies the first `rows` rows of `local_TH` to row `offset` of a new buffer; every other row is zero.

    With offset 0 and the largest rank's rows as `total` it makes the padded part of an all-gather; with the rows
    of the ranks before as `offset` and all ranks' rows as `total`, the addend of an all-reduce. The sizes are
    numbers of the step's plan on the host, so a captured graph holds for one plan.

    Args:
        local_TH: ``[T, H]``, any dtype of 1, 2 or 4 bytes; T may be 0.
        rows: number of rows that are real, ``0 <= rows <= T``.
        offset: first row of the result that they fill, ``0 <= offset <= total - rows``.
        total: N, rows of the result.

    Returns:
        ``[N, H]``, same dtype and device, contiguous, written in one pass.

    Raises:
        ValueError: not two dimensions, or numbers outside these bounds.
        TypeError: a dtype of another size.

    Source: the two gather modes of SGLang's DP attention (``dp_gather``, MAX_LEN and SUM_LEN).
    """
    out_NH: torch.Tensor = _PAD(local_TH, rows, offset, total)
    return out_NH


def dp_unpad(global_NH: torch.Tensor, rows: int, offset: int) -> torch.Tensor:
    """Returns rows `offset` to ``offset + rows`` of `global_NH` as a tensor of their own: what `dp_pad` placed
    there.

    Args:
        global_NH: ``[N, H]``, any dtype of 1, 2 or 4 bytes.
        rows, offset: ``0 <= offset``, ``0 <= rows <= N - offset``.

    Returns:
        ``[rows, H]``, a copy, contiguous.

    Raises:
        ValueError: not two dimensions, or numbers outside these bounds.
        TypeError: a dtype of another size.
    """
    local_TH: torch.Tensor = _UNPAD(global_NH, rows, offset)
    return local_TH
