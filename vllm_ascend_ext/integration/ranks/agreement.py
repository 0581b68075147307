# SPDX-License-Identifier: Apache-2.0
"""Checks at start-up that all ranks of a group decide by the same numbers; otherwise none goes on."""

from __future__ import annotations

import hashlib

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.integration.errors import StartupError


def check_agreement(ranks: Collectives, feature: str, what: str, text: str, device: torch.device) -> None:
    """Compares everything that a decision depends on among the ranks of a group.

    Ranks that decide by different numbers would wait for each other in different collectives. Every rank calls
    this, before anything else is sent: the traffic counted on `ranks` begins anew afterwards.

    Args:
        ranks: collectives of the group.
        feature: section of the configuration that the decision belongs to, for the error.
        what: name of what `text` holds, for the error.
        text: everything that the decision depends on, which has to be the same on all ranks.
        device: device on which the collectives work.

    Raises:
        StartupError: the texts differ. Every rank raises it, and names the world ranks whose text is not its own.
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
