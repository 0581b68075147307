# SPDX-License-Identifier: Apache-2.0
"""Defines what a row of the table of verified deployments holds (`rows.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ascend_ext.integration.upstream.versions import PAIR_0_23, Pair


@dataclass(frozen=True, slots=True, eq=False)
class VerifiedRow:
    """Holds what one test has run; equal to itself alone, so that what follows from it can be kept.

    Attributes:
        features: names of the features that the test runs.
        test: "file::function" of the test.
        values: dimension -> the values that the test runs; what is left out is off (`_OFF`).
        pair: the versions of vLLM and vllm-ascend with which it has run them.
    """

    features: tuple[str, ...]
    test: str
    values: Mapping[str, tuple[str, ...]]
    pair: Pair = PAIR_0_23

    def of(self, dimension: str) -> tuple[str, ...]:
        """Returns the values that the test runs of a dimension."""
        return self.values.get(dimension, _OFF.get(dimension, ()))


_OFF = {
    "graphs": ("eager",),
    "dispatch": ("ALLGATHER",),
    "weights": ("unquantised",),
    "row_split": ("none",),
    "drafts": ("none",),
    "transfer": ("none",),
}

Values = str | tuple[str, ...]


def verified_row(features: tuple[str, ...], test: str, family: str, *layouts: str, **more: Values) -> VerifiedRow:
    """Returns a row of one family; a value may stand for a tuple of one."""
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in more.items()}
    return VerifiedRow(features, test, {"family": (family,), "layout": layouts, **values})
