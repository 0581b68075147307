# SPDX-License-Identifier: Apache-2.0
"""Stands in for cann_ops_transformer, of which vllm-ascend 0.30 calls the prolog of latent attention.

Its other operators are for an A5, and missing.
"""

from __future__ import annotations

from .prolog import mla_prolog_v3 as mla_prolog

__all__ = ["mla_prolog"]
