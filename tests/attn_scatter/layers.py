# SPDX-License-Identifier: Apache-2.0
"""Builds decoder layers of plain torch for the tests and the benchmark of scattered attention input.

A layer is built whole from a seed, so that every rank can make the others' parts and the reference: `whole` is
one process computing all of it, `parts` what one of R ranks has of it.

Shapes: T = rows, H = hidden size, W = latent columns, E = experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from vllm_ascend_ext.attn_scatter.layers import LayerParts, Norm

EPS = 1e-6


def rms_norm(x_TH: torch.Tensor, weight_H: torch.Tensor) -> torch.Tensor:
    return (x_TH.float() * torch.rsqrt(x_TH.float().square().mean(1, keepdim=True) + EPS)).to(
        x_TH.dtype
    ) * weight_H


def norm_of(weight_H: torch.Tensor) -> Norm:
    return Norm(weight_H, EPS, lambda x: rms_norm(x, weight_H))


@dataclass(frozen=True)
class LayerWeights:
    """Holds a layer's weights. kind: `dense`, `routed` (the experts are divided among the ranks) or `shards` (each
    rank has the whole MLP and runs it on its own rows)."""

    kind: str
    input_H: torch.Tensor
    output_H: torch.Tensor
    latent_HW: torch.Tensor | None
    attention_WH: torch.Tensor  # [H, H] without a latent
    mlp_HH: torch.Tensor
    router_HE: torch.Tensor

    @classmethod
    def random(cls, seed: int, kind: str, hidden: int, latent: int | None, experts: int = 8) -> LayerWeights:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * shape[0] ** -0.5

        width = latent or hidden
        return cls(
            kind,
            1 + 0.1 * torch.randn(hidden, generator=generator),
            1 + 0.1 * torch.randn(hidden, generator=generator),
            draw(hidden, latent) if latent else None,
            draw(width, hidden),
            draw(hidden, hidden),
            draw(hidden, experts),
        )

    def to(self, dtype: torch.dtype) -> LayerWeights:
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return LayerWeights(*(v.to(dtype) if isinstance(v, torch.Tensor) else v for v in values))

    def project(self, x_TH: torch.Tensor) -> torch.Tensor:
        assert self.latent_HW is not None
        return x_TH @ self.latent_HW

    def attend(self, x_TW: torch.Tensor, positions_T: torch.Tensor, columns: slice) -> torch.Tensor:
        """Lets every row see the mean of those before it, so that a row at the wrong place is noticed; the ranks
        have columns of the second factor."""
        seen = torch.cumsum(x_TW, 0) / (1 + positions_T).unsqueeze(1)
        mixed = torch.tanh(seen).to(x_TW.dtype)
        return mixed[:, columns] @ self.attention_WH[columns]

    def route(self, x_TH: torch.Tensor) -> torch.Tensor:
        return x_TH @ self.router_HE

    def mlp(self, x_TH: torch.Tensor, logits_TE: torch.Tensor | None, columns: slice) -> torch.Tensor:
        logits = self.route(x_TH) if logits_TE is None else logits_TE
        gate = 1.0 if self.kind == "dense" else logits.sigmoid().amax(1, keepdim=True)
        return gate * (F.silu(x_TH)[:, columns] @ self.mlp_HH[columns])

    def whole(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        everything = slice(None)
        residual = x if residual is None else x + residual
        normed = rms_norm(residual, self.input_H)
        latent = normed if self.latent_HW is None else self.project(normed)
        residual = self.attend(latent, positions, everything) + residual
        return self.mlp(rms_norm(residual, self.output_H), None, everything), residual

    def parts(self, rank: int, num_ranks: int) -> LayerParts:
        def own(width: int) -> slice:
            return slice(rank * width // num_ranks, (rank + 1) * width // num_ranks)

        attention, mlp = own(self.attention_WH.shape[0]), own(self.mlp_HH.shape[0])
        if self.kind == "shards":
            mlp = slice(None)
        return LayerParts(
            f"a {self.kind} layer",
            norm_of(self.input_H),
            self.project if self.latent_HW is not None else None,
            lambda x, positions: self.attend(x, positions, attention),
            norm_of(self.output_H),
            lambda x, logits: self.mlp(x, logits, mlp),
            mlp_on_shards=self.kind == "shards",
            route=self.route if self.kind == "routed" else None,
        )
