# SPDX-License-Identifier: Apache-2.0
"""Names the values of dimensions that several rows of the table of verified deployments have."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_ascend_ext.tools.check.verified.row import Values

CUT, TURNS = ("MC2, ALLTOALL",), ("MC2, ALLGATHER",)
FULL, MIXED = ("FULL_DECODE_ONLY",), ("FULL_AND_PIECEWISE",)
SOME = ("mtp 1", "mtp 3")
FC1, SHARED = ("FlashComm v1",), ("shared-expert DP",)
SENDS = ("producer",)
SERVED: Mapping[str, Values] = {"graphs": FULL, "dispatch": CUT, "weights": "w8a8", "drafts": "mtp 3"}
