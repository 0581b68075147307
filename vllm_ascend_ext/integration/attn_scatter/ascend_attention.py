# SPDX-License-Identifier: Apache-2.0
"""Splits vllm-ascend's latent attention where its rows are narrow: behind the projections that all ranks repeat.

Of sparse attention these are two, the latent's and the indexer's (its key and the weights of its heads).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vllm_ascend_ext.integration.attn_scatter.decoder import Rowwise
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.seams.change import Change, row_for
from vllm_ascend_ext.integration.upstream.seams.rows import ascend_layers as seams


@dataclass(frozen=True, slots=True)
class NarrowRows:
    """Describes an attention that can be given rows that are projected already.

    project: ``[P, H]`` → ``[P, W]``; widths: of its parts, which make up W: the queries' latent, the keys' with
    their rotary part, and of sparse attention the indexer's. changes: what has the attention take such rows for
    its own. implementation: vllm-ascend's object.
    """

    project: Rowwise
    widths: tuple[int, ...]
    changes: list[Change]
    implementation: Any

    @property
    def width(self) -> int:
        """Returns W."""
        return sum(self.widths)


def narrow_rows(attention: Any, name: str) -> NarrowRows:
    """Returns how a latent attention is split.

    name: the layer's, for errors.

    Raises:
        UnsupportedCombinationError: the attention is of a class that has not run, or has no such projection.
    """
    from vllm_ascend.attention.mla_v1 import AscendMLAImpl
    from vllm_ascend.attention.sfa_v1 import AscendSFAImpl

    own = attention.mla_attn.mla_attn.impl
    if type(own) not in (AscendMLAImpl, AscendSFAImpl):
        raise unsupported(f"{name} has a {type(own).__name__} in place of vllm-ascend's AscendMLAImpl")
    if own.enable_mlapo:
        raise unsupported(f"the attention of {name} projects within its kernel (enable_mlapo)")
    if type(own) is AscendMLAImpl and own.fa_quant_layer:
        raise unsupported(f"the attention of {name} projects within its kernel (quantised keys)")
    if own.fused_qkv_a_proj is None:
        raise unsupported(f"the attention of {name} has no projection that all ranks repeat")
    linears = [(row_for(seams.PROJECTIONS, own), own.fused_qkv_a_proj)]
    if type(own) is AscendSFAImpl and own.has_indexer:
        linears.append((seams.INDEXER_PROJECTION, own.wk_weights_proj))
    changes, widths = [], list[int]()
    for seam, linear in linears:
        begin = sum(widths)
        widths += linear.output_sizes
        changes.append(Change(seam, _AlreadyProjected(linear.weight, begin, sum(widths)), own))

    def project(x: torch.Tensor) -> torch.Tensor:
        results = [linear(x)[0] for _, linear in linears]
        return results[0] if len(results) == 1 else torch.cat(results, dim=1)

    return NarrowRows(project, tuple(widths), changes, own)


def unsupported(why: str) -> UnsupportedCombinationError:
    """Returns the error of a model that has not run."""
    return UnsupportedCombinationError(
        f"ascend_ext.attn_scatter is not verified with this model: {why}; set attn_scatter.enabled to false"
    )


class _AlreadyProjected:
    """Hands its columns on, in place of a linear layer whose work has been done before.

    weight: that layer's, which vllm-ascend's attention names whether it prefetches weights or not.
    """

    def __init__(self, weight: torch.Tensor, begin: int, end: int) -> None:
        self.weight, self._columns = weight, slice(begin, end)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x[:, self._columns], None
