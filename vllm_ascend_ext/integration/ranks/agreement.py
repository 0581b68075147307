# SPDX-License-Identifier: Apache-2.0
"""At start-up: all ranks of a group decide by the same numbers, or none goes on."""

from __future__ import annotations

import hashlib

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.integration.errors import StartupError


def check_agreement(ranks: Collectives, feature: str, what: str, text: str, device: torch.device) -> None:
    """Ranks that decide by different numbers would wait for each other in different collectives.

    Every rank calls it, before anything else is sent: the traffic counted on `ranks` begins anew after it.

    Args:
        feature: its section in the configuration.
        what: what `text` holds, in words, for the error.
        text: the same on all ranks, everything that a decision depends on.
        device: of the collectives.

    Raises:
        StartupError: on every rank; names the world ranks that have something else than this one.
    """
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    own = torch.tensor([[digest]], dtype=torch.int32, device=device)
    digests = ranks.all_gather_rows(own, None).flatten().tolist()
    ranks.reset_traffic()
    if different := [rank for rank, other in zip(ranks.world_ranks, digests, strict=True) if other != digest]:
        raise StartupError(
            f"ascend_ext.{feature}: world ranks {different} have another {what} than world rank "
            f"{ranks.world_ranks[ranks.rank]}; give all the same"
        )
