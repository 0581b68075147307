# SPDX-License-Identifier: Apache-2.0
"""Lists the classes of deployments in which tests have run features on vllm-ascend: a row a test.

A test proves a class in small on the emulator: tokens equal to transformers', and what the feature counts or sends
equal to an independent count. A row names for each dimension of `DeploymentClass` the values that its test runs; a
test that runs its values pairwise may name them all. What no row holds reads "unverified".

To add a row: name the test as pytest does, without what is in brackets, and every value that it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ascend_ext.tools.check.deployment_class import DIMENSIONS, DeploymentClass


@dataclass(frozen=True, slots=True)
class VerifiedRow:
    """Holds the classes that one test proves.

    Attributes:
        features: names of the features that the test runs.
        test: "file::function" of the test.
        values: dimension -> the values that the test runs, or `ANY` where the feature cannot see which; what is
            left out is off (`_OFF`).
    """

    features: tuple[str, ...]
    test: str
    values: Mapping[str, tuple[str, ...]]

    def holds(self, deployment: DeploymentClass) -> bool:
        """Returns whether the test ran this class."""
        return all(self._has(name, getattr(deployment, name)) for name in DIMENSIONS)

    def _has(self, dimension: str, value: str) -> bool:
        values = self.values.get(dimension, _OFF.get(dimension, ()))
        return values == ANY or value in values


ANY = ("any",)
_OFF = {
    "graphs": ("eager",),
    "dispatch": ("ALLGATHER",),
    "weights": ("unquantised",),
    "row_split": ("none",),
    "drafts": ("none",),
    "transfer": ("none",),
}
_OWN_CHOICE = "MC2, ALLTOALL"  # an A3's, by the size of a step


def _rows(features: tuple[str, ...], test: str, *classes: Mapping[str, tuple[str, ...]]) -> list[VerifiedRow]:
    """Returns a row for each of a test's cases, whose values it does not cross."""
    return [VerifiedRow(features, test, values) for values in classes]


ROWS: tuple[VerifiedRow, ...] = (
    VerifiedRow(
        ("eplb_load",),
        "tests/eplb_load/test_vllm_ascend.py::test_load_equals_transformers_routing",
        {"family": ("GQA",), "layout": ("TP", "TP+EP")},
    ),
    VerifiedRow(
        ("eplb_load",),
        "tests/eplb_load/test_vllm_ascend.py::test_mtp_counts_every_scheduled_row",
        {"family": ("MLA",), "layout": ("TP+EP",), "drafts": ("mtp 2",)},
    ),
    *_rows(
        ("eplb_load",),
        "tests/eplb_load/test_ascend_dispatch.py::test_gathered_rows_count_once",
        {"family": ("GQA",), "layout": ("TP+EP",), "row_split": ("FlashComm v1",)},
        {"family": ("GQA",), "layout": ("DP+EP", "PP")},
        {"family": ("MLA",), "layout": ("TP+EP+DCP",)},
        {"family": ("MLA",), "layout": ("DP+EP",), "drafts": ("mtp 1",)},
    ),
    *_rows(
        ("eplb_load",),
        "tests/eplb_load/test_ascend_a3.py::test_cut_rows_count_once",
        {"family": ("GQA",), "layout": ("TP+EP",), "dispatch": (_OWN_CHOICE, "FUSED_MC2")},
        {
            "family": ("MLA",),
            "layout": ("TP+EP",),
            "dispatch": (_OWN_CHOICE,),
            "row_split": ("FlashComm v1",),
            "drafts": ("mtp 1",),
        },
        {"family": ("MLA",), "layout": ("DP+TP+EP",), "dispatch": (_OWN_CHOICE,), "drafts": ("mtp 2",)},
        {
            "family": ("MLA",),
            "layout": ("DP+EP",),
            "dispatch": (_OWN_CHOICE,),
            "drafts": ("mtp 1",),
            "graphs": ("FULL_DECODE_ONLY",),
        },
    ),
    VerifiedRow(
        ("dp_gather",),
        "tests/dp_gather/test_vllm_ascend.py::test_modes_give_transformers_tokens",
        {"family": ("MLA",), "layout": ("DP+EP",), "drafts": ("mtp 1",)},
    ),
    VerifiedRow(
        ("mtp_output",),
        "tests/mtp_output/test_vllm_ascend.py::test_frames_are_the_engines_tokens",
        {"family": ("MLA",), "layout": ("TP+EP",), "drafts": ("mtp 2",)},
    ),
)


def proof_of(feature: str, deployment: DeploymentClass) -> str | None:
    """Returns the test that has run a feature in a class of deployments, else None."""
    rows = (row for row in ROWS if feature in row.features and row.holds(deployment))
    return next((row.test for row in rows), None)
